"""Run the examples of documents and docstrings, in one process for all that want the same number of devices.

Usage: python run_examples.py DEVICES TARGET...

A target is a Markdown file, whose `python` blocks run in order in one namespace and in an empty folder, or a module's
name, whose doctests run. Where a `text` block follows a `python` block directly, the block has to print just that.
"""

import contextlib
import doctest
import importlib
import io
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import keras

import kparallel

_BLOCK = re.compile(
    r"^(?P<fence>`{3,})python\n(?P<code>.*?)^(?P=fence)$(?P<output>\n+^```text\n(?P<text>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


def run_page(path: Path) -> list[str]:
    """Return what went wrong on a page."""
    page = path.read_text()
    names = {"__name__": "__main__"}
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in _BLOCK.finditer(page):
            line = page.count("\n", 0, block.start("code"))
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    # Blank lines in front make a traceback name the page's own line.
                    exec(compile("\n" * line + block["code"], str(path.relative_to(home)), "exec"), names)
            except Exception:
                return [f"{path.name}:{line + 1}\n{traceback.format_exc()}"]
            if block["output"] and printed.getvalue().rstrip() != block["text"].rstrip():
                return [f"{path.name}:{line + 1} says\n{block['text']}but prints\n{printed.getvalue()}"]
    return []


def run_module(name: str) -> list[str]:
    """Return what went wrong in a module's doctests."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    return [printed.getvalue()] if result.failed else []


def main() -> None:
    """Run every target; a warning is an error, as in the other tests."""
    devices, *targets = sys.argv[1:]
    kparallel.virtual_devices(int(devices))
    warnings.simplefilter("error")
    # The same three that pyproject.toml excuses.
    warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
    warnings.filterwarnings("ignore", "`shuffle=True` was passed, but will be ignored", UserWarning)
    warnings.filterwarnings("ignore", r"(currentThread|getName)\(\) is deprecated", DeprecationWarning)
    failures = []
    for target in targets:
        keras.backend.clear_session()  # layers are numbered from the start again, so that printed names repeat
        keras.utils.set_random_seed(0)
        failures += run_page(Path(target).absolute()) if target.endswith(".md") else run_module(target)
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    print("\n".join(failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
