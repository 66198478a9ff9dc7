"""ZB-V: stages there and back over the lanes, about half the bubble of ZB-H1, and the memory of 1F1B's first lane."""

import itertools

import pytest

from kparallel.errors import PlanError, ScheduleError
from kparallel.schedule import by_name, check, clock, programs_for, zb_h1, zb_v
from tests.laws.obeys import obeys

SHAPES = [(lanes, turns) for lanes in range(1, 9) for turns in (2, 3, 4) if lanes * turns <= 16]


@pytest.mark.parametrize(("lanes", "turns"), SHAPES)
def test_it_obeys_the_laws_and_is_faster_than_zb_h1_over_longer_stages(lanes, turns):
    stages = lanes * turns
    for microbatches in (*range(1, 18), 32, 33):
        programs = zb_v(lanes)(stages, microbatches)
        check(programs, stages, microbatches)
        obeys(programs, stages, microbatches)
        for lane, program in enumerate(programs):
            assert {action.stage for action in program} == own(lane, lanes, turns)
            kept = itertools.accumulate({"F": 1, "B": 0, "W": -1}[action.kind] for action in program)
            assert max(kept) <= min(lanes, microbatches) * turns
        makespan = clock(programs).makespan
        if turns == 2:
            assert makespan <= clock(zb_h1(lanes, microbatches)).makespan * 2
            if microbatches >= lanes:
                assert makespan <= 6 * microbatches + 1.5 * lanes
            if microbatches >= lanes and lanes in (1, 2, 4):
                assert makespan == 6 * microbatches + lanes - 1


def own(lane, lanes, turns):
    """Return the stages of a lane, counted along the way there and back."""
    way = [each for turn in range(turns) for each in (range(lanes) if turn % 2 == 0 else reversed(range(lanes)))]
    return {stage for stage, each in enumerate(way) if each == lane}


def test_one_stage_on_each_lane_is_zb_h1():
    assert zb_v(3)(3, 5) == zb_h1(3, 5)


def test_stages_have_to_lie_there_and_back():
    assert programs_for("zb_v", 4, 3, (0, 1, 1, 0)) == zb_v(2)(4, 3)
    with pytest.raises(ScheduleError, match=r"there and back .* \(a, b, b, a\)"):
        programs_for("zb_v", 4, 3, (0, 1, 0, 1))
    with pytest.raises(ScheduleError, match="multiple of the 2 devices in a row, received 3. Use 4 stages"):
        zb_v(2)(3, 4)
    with pytest.raises(ScheduleError, match="at least 1 lane"):
        zb_v(0)
    with pytest.raises(PlanError, match="number of lanes"):
        by_name("zb_v")
