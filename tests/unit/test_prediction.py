"""A prediction beside what was measured: the term that is off is named, and another plan's prediction is refused."""

from dataclasses import replace

import pytest

from kparallel.errors import PlanError
from kparallel.forecast.configuration import Configuration
from kparallel.forecast.estimate import Estimate, StepTime
from kparallel.trace.prediction import estimate_of, terms
from tests.unit.made_steps import DATA, HYBRID, step_of, summary_of

TIME = StepTime(24.0, 0.0, 0.0, 3.0, 0.0, 0.0, 1.0)
TOLD = Estimate(Configuration(2, 2, 2, 2), TIME, 1e6, 8)


def test_the_term_that_is_off_is_named():
    made = step_of(HYBRID, sums=7.0)
    summary = replace(summary_of(HYBRID, made, made), predicted=TOLD)
    # Stage 1 computes 2 x (3 + 6) seconds; of its 2 stages the later one waits for the first forward pass alone.
    assert summary.busiest["work"] == pytest.approx(18.0) and sum(summary.busiest.values()) == pytest.approx(
        summary.step_time
    )
    assert terms(TIME, summary.busiest)["reduction"] == (0.0, pytest.approx(7.0))
    line = next(line for line in str(summary).splitlines() if line.startswith("prediction"))
    assert "off by most is reduction (predicted 0, measured 7e+03)" in line
    assert line.startswith("prediction     predicted 2.8e+04 ms for a batch of 8 rows, measured ")
    assert "prediction" not in str(replace(summary, predicted=None))


def test_the_prediction_has_to_be_the_plans():
    assert estimate_of(TOLD, HYBRID) is TOLD
    alone = replace(TOLD, configuration=Configuration(2, schedule="gpipe"))
    assert estimate_of(alone, DATA) is alone  # With one stage all schedules are the same.
    for other in ({"microbatches": 4}, {"schedule": "gpipe"}, {"recompute": "always"}, {"shard": "optimizer"}):
        with pytest.raises(PlanError, match="Expected a prediction for the plan of the model, 2 replicas, 2 stages"):
            estimate_of(replace(TOLD, configuration=replace(TOLD.configuration, **other)), HYBRID)
