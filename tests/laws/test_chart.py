"""Programs as a chart of text."""

from kparallel.schedule import (
    chart,
    one_f_one_b,
)

PICTURE = """
tick    0   1   2   3   4   5   6   7   8   9   10  11  12  13
lane 0  0F0 0F1 0F2 0F3 .   .   .   0B0 .   0B1 .   0B2 .   0B3
lane 1  .   1F0 1F1 1F2 .   .   1B0 1F3 1B1 .   1B2 .   1B3 .
lane 2  .   .   2F0 2F1 .   2B0 2F2 2B1 2F3 2B2 .   2B3 .   .
lane 3  .   .   .   3F0 3B0 3F1 3B1 3F2 3B2 3F3 3B3 .   .   .
"""


def test_chart_of_1f1b():
    assert chart(one_f_one_b(4, 4)) == PICTURE.strip("\n")


def test_a_wide_chart_says_what_it_leaves_out():
    text = chart(one_f_one_b(2, 32), names=["GPU:0", "GPU:1"], width=40)
    lines = text.split("\n")
    assert lines[1] == "GPU:0  0F0  0F1  .    0B0  0F2  0B1 …"
    assert lines[-1] == "… 60 more of 66 ticks"
    assert max(map(len, lines)) <= 40
