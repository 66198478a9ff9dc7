"""The time of a step, estimated."""

import itertools
import random

import pytest

from kparallel.planning.predict import predict, step_time_bound
from kparallel.schedule import gpipe, one_f_one_b, zb_h1


def test_predicted_time():
    for stages, microbatches in itertools.product(range(1, 9), (1, 2, 4, 8, 32)):
        for schedule in (gpipe, one_f_one_b):
            told = predict([1 / stages] * stages, schedule(stages, microbatches), microbatches)
            assert told.bubble == pytest.approx((stages - 1) / (microbatches + stages - 1), abs=1e-12)
    assert predict([1.0], one_f_one_b(1, 1), 1).step_time == pytest.approx(1)
    assert predict([1.0], one_f_one_b(1, 1), 1, replicas=4).step_time == pytest.approx(1 / 4)
    assert predict([1.0], one_f_one_b(1, 1), 1, recompute="always").step_time == pytest.approx(4 / 3, rel=0.01)


def test_no_schedule_beats_the_bound():
    source = random.Random(4)
    for _ in range(60):
        stages, microbatches = source.randint(1, 6), source.randint(1, 12)
        costs = [source.lognormvariate(0, 1) for _ in range(stages)]
        shares = [cost / sum(costs) for cost in costs]
        for policy in ("never", "always", "except_last"):
            told = predict(shares, one_f_one_b(stages, microbatches), microbatches, 2, policy)
            assert step_time_bound(shares, microbatches, 2, policy) <= told.step_time * (1 + 1e-12)
            told = predict(shares, zb_h1(stages, microbatches), microbatches, 2, policy)
            assert step_time_bound(shares, microbatches, 2, policy, split=True) <= told.step_time * (1 + 1e-12)


def test_a_split_backward_pass_takes_the_same_time_in_two_parts():
    for stages, microbatches in ((4, 4), (4, 8), (8, 8)):
        told = predict([1 / stages] * stages, zb_h1(stages, microbatches), microbatches)
        assert told.bubble == pytest.approx(1 - 3 * microbatches / (3 * microbatches + stages - 1), abs=1e-12)
