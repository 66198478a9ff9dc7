"""The figures of recorded steps."""

import pytest

from tests.unit.made_steps import HYBRID, step_of, summary_of


def test_the_summary_measures_what_the_clock_simulates():
    made = step_of(HYBRID, sums=0.5)
    summary = summary_of(HYBRID, made, made)
    assert summary.step_times == (made[0].end - made[0].start,) * 2
    assert summary.forward == pytest.approx((1.0, 3.0)) and summary.backward == pytest.approx((2.0, 6.0))
    assert summary.bubble == pytest.approx(made[1].bubble) == pytest.approx(summary.bubble_of_stages)
    # The plan expects the stages' shares of the cost, which are as measured, but for the cost of starting actions.
    assert summary.bubble_planned == pytest.approx(made[1].bubble, abs=0.03)
    assert summary.planned.makespan == pytest.approx(made[1].makespan, rel=0.05)
    assert summary.slowest == 1 and summary.imbalance == pytest.approx(1.5)
    assert summary.stage_times == pytest.approx((6.0, 18.0))
    text = str(summary)
    assert "slowest stage  1 (block, head), 1.5 times the mean" in text
    assert f"bubble         {made[1].bubble:.0%} measured" in text
    assert "2 replicas x 2 stages, 2 microbatches, schedule 1f1b; 2 steps recorded" in text
