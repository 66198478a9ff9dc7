"""What weights and gradients on their way add to a step whose weights are brought for each run of actions."""

import pytest

from kparallel.forecast.brought import waiting


def adds(microbatches, forward, backward, weights, schedule="interleaved"):
    return waiting(schedule, microbatches, forward, backward, weights)


def test_weights_that_travel_beside_passes_cost_their_first_and_last_way():
    assert adds(1, [1.0] * 4, [2.0] * 4, [0.25] * 4) == pytest.approx(0.25 + 0.25)
    assert adds(1, [1.0], [2.0], [0.0]) == 0


def test_a_slow_link_carries_one_thing_after_another():
    # The weights of 2 stages forward, of the first one backward, 10 seconds each; then the gradients of both. The link
    # has nothing to carry while the last stage runs forward.
    assert adds(1, [1.0] * 2, [2.0] * 2, [10.0] * 2) == pytest.approx(5 * 10 + 1 - 6)


@pytest.mark.parametrize(
    ("schedule", "microbatches", "times"), [("gpipe", 1, 23), ("gpipe", 4, 23), ("1f1b", 4, 62), ("gpipe", 64, 23)]
)
def test_weights_are_brought_as_often_as_the_page_on_plans_says(schedule, microbatches, times):
    """Passes take no time here: all that takes some is on the link, the gradients of the stages as well."""
    assert adds(microbatches, [0.0] * 12, [0.0] * 12, [1.0] * 12, schedule) == times + 12


def test_in_gpipes_order_more_microbatches_hide_more():
    few, many = (adds(number, [1.0] * 2, [2.0] * 2, [10.0] * 2, "gpipe") for number in (1, 64))
    assert few > many
    alone = [adds(number, [1.0, 3.0], [2.0, 1.0], [2.5, 0.5], "gpipe") for number in range(1, 9)]
    assert alone == pytest.approx([alone[3]] * 8, abs=2.0) and min(alone) > 0


def test_each_microbatch_brings_the_weights_anew_where_stages_take_turns():
    one, four = (adds(number, [1.0] * 2, [2.0] * 2, [10.0] * 2) for number in (1, 4))
    assert four > 2 * one
    # Beyond a few, the rest is continued: as if all had been simulated.
    steps = [adds(number + 1, [1.0, 3.0], [2.0, 1.0], [2.5, 0.5]) for number in range(8)]
    grown = [after - before for before, after in zip(steps[1:], steps[2:], strict=False)]
    assert grown == pytest.approx([grown[0]] * len(grown))
