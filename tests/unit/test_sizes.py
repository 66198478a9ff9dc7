"""What `-n` says."""

import pytest

from kparallel.launcher.sizes import Sizes, parse_sizes


@pytest.mark.parametrize(("text", "sizes"), [("4", Sizes(4, 4)), ("2:4", Sizes(2, 4)), ("3:3", Sizes(3, 3))])
def test_a_number_or_a_range_is_read(text, sizes):
    assert parse_sizes(text) == sizes
    assert sizes.is_elastic == (text == "2:4")


@pytest.mark.parametrize(
    ("text", "words"),
    [("0", "at least 1"), ("0:2", "at least 1"), ("4:2", "write 2:4"), ("two", "MIN:MAX"), ("2:", "MIN:MAX")],
)
def test_anything_else_is_refused_in_words(text, words):
    with pytest.raises(ValueError, match=words):
        parse_sizes(text)
