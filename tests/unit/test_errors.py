"""The tree of errors: one text, in the module and on the page, and it is what the classes are."""

import builtins
import re
from pathlib import Path

import pytest

from kparallel import errors

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def drawn_on_the_page():
    """Return the page's block that starts with the root."""
    return re.search(r"^```text\n(KParallelError\n.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1].rstrip()


def parents(tree):
    """Read from a drawn tree which error each one stands under."""
    above = {}
    for line in tree.splitlines():
        branch, name = re.match(r"([│├└─ ]*)(\w+)", line).groups()
        depth = len(branch) // 4
        above[depth] = name
        yield name, above.get(depth - 1)


def test_the_page_draws_the_tree_of_the_module():
    assert drawn_on_the_page() in errors.__doc__


def test_the_tree_is_what_the_classes_are():
    tree = dict(parents(drawn_on_the_page()))
    assert set(tree) == set(errors.__all__)
    for name, parent in tree.items():
        assert getattr(errors, name).__bases__[0].__name__ == (parent or "Exception")


@pytest.mark.parametrize("name", errors.__all__)
def test_the_page_names_the_built_in_kind(name):
    if name != "KParallelError":
        (said,) = re.findall(rf"^\| `{name}` \| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
        assert issubclass(getattr(errors, name), getattr(builtins, said))
