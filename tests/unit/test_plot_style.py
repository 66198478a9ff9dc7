"""The colours of all plots."""

from kparallel.planning.plot_style import TEXT_COLOR, color, text_color


def test_neighboring_stages_differ_and_colours_repeat():
    colors = [color(stage) for stage in range(9)]
    assert len(set(colors[:8])) == 8 and colors[8] == colors[0]


def test_text_is_legible_on_each_colour():
    assert text_color("#000000") == "white" and text_color("#0072B2") == "white"
    assert text_color("#FFFFFF") == TEXT_COLOR and text_color("#56B4E9") == TEXT_COLOR
    assert text_color("#00FF00") == TEXT_COLOR and text_color("#0000FF") == "white"  # Green is brighter than blue.
