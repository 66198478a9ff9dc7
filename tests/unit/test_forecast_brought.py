"""What weights and gradients on their way add to a step whose weights are brought for each action."""

import pytest

from kparallel.forecast.brought import waiting


def test_weights_that_travel_beside_passes_cost_their_first_and_last_way():
    assert waiting(1, [1.0] * 4, [2.0] * 4, [0.25] * 4) == pytest.approx(0.25 + 0.25)
    assert waiting(1, [1.0], [2.0], [0.0]) == 0


def test_a_slow_link_carries_one_thing_after_another():
    # The weights of 2 stages forward and backward, 10 seconds each; the gradients of both follow the last of them.
    assert waiting(1, [1.0] * 2, [2.0] * 2, [10.0] * 2) == pytest.approx(6 * 10 - 6)


def test_each_microbatch_brings_the_weights_anew():
    one, four = (waiting(number, [1.0] * 2, [2.0] * 2, [10.0] * 2) for number in (1, 4))
    assert four == pytest.approx((4 * 4 + 2) * 10 - 4 * 6) and four > 2 * one
    # Beyond a few, the rest is continued: as if all had been simulated.
    steps = [waiting(number + 1, [1.0, 3.0], [2.0, 1.0], [2.5, 0.5]) for number in range(8)]
    grown = [after - before for before, after in zip(steps[1:], steps[2:], strict=False)]
    assert grown == pytest.approx([grown[0]] * len(grown))
