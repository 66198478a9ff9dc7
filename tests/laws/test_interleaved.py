"""The interleaved schedule: stages dealt to the lanes in turn."""

import itertools

import pytest

from kparallel.schedule import (
    check,
    clock,
    fold,
    interleaved,
    one_f_one_b,
)
from tests.laws.obeys import obeys

# (lanes, stages on each) with at most 8 stages
SHAPES = [(lanes, per_lane) for lanes in range(1, 5) for per_lane in range(2, 9) if lanes * per_lane <= 8]


@pytest.mark.parametrize(("lanes", "per_lane"), SHAPES)
def test_interleaved(lanes, per_lane):
    stages = lanes * per_lane
    for microbatches in range(1, 33):
        programs = interleaved(lanes)(stages, microbatches)
        check(programs, stages, microbatches)
        obeys(programs, stages, microbatches)
        for lane, program in enumerate(programs):
            assert {action.stage for action in program} == set(range(lane, stages, lanes))
        for forward, backward in ((1, 1), (1, 2)):
            makespan = clock(programs, forward, backward).makespan
            pair = forward + backward
            if microbatches % lanes == 0:
                assert makespan == (microbatches * per_lane + lanes - 1) * pair
            # Never worse than 1F1B over `lanes` stages that are `per_lane` times as long.
            assert makespan <= (microbatches + lanes - 1) * per_lane * pair
        # Megatron's limit of what a lane holds: the passes of its warm-up and one more.
        for lane, program in enumerate(programs):
            held = itertools.accumulate(1 if action.kind == "F" else -1 for action in program)
            assert max(held) <= 2 * (lanes - lane - 1) + (per_lane - 1) * lanes + 1


def test_interleaved_with_one_stage_each_is_1f1b():
    assert interleaved(3)(3, 5) == one_f_one_b(3, 5)


def test_interleaved_beats_folded_1f1b():
    for lanes, per_lane in [(2, 2), (2, 4), (4, 2)]:
        homes = [stage % lanes for stage in range(lanes * per_lane)]
        for microbatches in range(lanes, 33):
            better = clock(interleaved(lanes)(lanes * per_lane, microbatches), 1, 2).makespan
            assert better <= clock(fold(one_f_one_b(lanes * per_lane, microbatches), homes), 1, 2).makespan
