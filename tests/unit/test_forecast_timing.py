"""The time of a schedule on lanes, many times faster than the clock's, and equal to it."""

import random

import pytest

from kparallel.forecast.timing import kept, lanes_of, timing
from kparallel.schedule import FORWARD, SCHEDULES, clock, deferred, in_flight, registered


def programs(schedule, lanes, stages, microbatches):
    return registered(schedule).make(lanes)(stages, microbatches)


SHAPES = [(name, lanes, lanes * (2 if SCHEDULES[name].dealt else 1)) for name in SCHEDULES for lanes in (1, 2, 3, 4)]


@pytest.mark.parametrize("schedule, lanes, stages", SHAPES)
def test_it_equals_the_clock(schedule, lanes, stages):
    source = random.Random(lanes)
    forward, backward, weight = ([source.uniform(1, 2) for _ in range(stages)] for _ in range(3))
    for rounds in (1, 2, 3, 7, 12):
        microbatches = rounds * lanes
        told = timing(schedule, lanes, microbatches, forward, backward, [0.5] * (stages - 1), weight)
        made = programs(schedule, lanes, stages, microbatches)
        times = clock(made, forward, backward, weight, transfer=0.5)
        ends = [max(times.finish[a] for a in times.finish if a.stage == s and a.kind != FORWARD) for s in range(stages)]
        assert told.makespan == pytest.approx(times.makespan, rel=0.02 if rounds > 6 else 1e-12)
        assert told.ends == pytest.approx(ends, rel=0.02 if rounds > 6 else 1e-12)
        assert kept(schedule, lanes, stages, microbatches) == (in_flight(made), deferred(made))


def test_many_equal_microbatches_are_continued_exactly():
    for schedule, lanes, stages in SHAPES:
        told = timing(schedule, lanes, 60, [1.0] * stages, [2.0] * stages, [0.0] * (stages - 1), [1.0] * stages)
        assert told.makespan == pytest.approx(clock(programs(schedule, lanes, stages, 60), 1, 2).makespan, rel=1e-12)


def test_each_pair_of_stages_has_its_own_way():
    assert timing("1f1b", 3, 1, [1.0] * 3, [1.0] * 3, [0.5, 0.25]).makespan == 6 + 2 * 0.5 + 2 * 0.25


def test_lanes():
    assert lanes_of("1f1b", 4, 4) == (0, 1, 2, 3) and lanes_of("interleaved", 4, 2) == (0, 1, 0, 1)
