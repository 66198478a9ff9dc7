"""ZB-H1: the backward passes are split, two thirds of the bubble go, and no stage keeps more than 1F1B's first one."""

import itertools

import pytest

from kparallel.schedule import check, clock, deferred, fold, in_flight, one_f_one_b, programs_for, zb_h1
from tests.laws.obeys import SIZES, obeys


def test_it_obeys_the_laws_and_takes_as_long_as_the_theory_says():
    for stages, microbatches in SIZES:
        programs = zb_h1(stages, microbatches)
        check(programs, stages, microbatches)
        obeys(programs, stages, microbatches)
        full = microbatches >= stages
        expected = 3 * microbatches + stages - 1 if full else 2 * microbatches + 2 * stages - 1
        times = clock(programs)
        assert times.makespan == expected
        assert times.bubble == pytest.approx(1 - 3 * microbatches / expected, abs=1e-12)


def test_no_stage_keeps_more_microbatches_than_the_first_of_1f1b():
    for stages, microbatches in SIZES:
        programs = zb_h1(stages, microbatches)
        most = min(stages, microbatches)
        assert in_flight(programs) == (most,) * stages
        assert max(in_flight(programs)) == max(in_flight(one_f_one_b(stages, microbatches)))
        assert deferred(programs) == tuple(min(stage, microbatches - 1) for stage in range(stages))
    assert (sum(in_flight(zb_h1(4, 8))), sum(in_flight(one_f_one_b(4, 8)))) == (16, 10)


def test_it_is_never_slower_than_1f1b_whatever_the_passes_take():
    for stages, microbatches in itertools.product((1, 3, 4, 8), (1, 3, 4, 9, 17)):
        for forward, backward, weight in ((1, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 1), (1, 1.2, 0.8)):
            split = clock(zb_h1(stages, microbatches), forward, backward, weight).makespan
            whole = clock(one_f_one_b(stages, microbatches), forward, backward + weight).makespan
            assert split <= whole + 1e-9, (stages, microbatches, forward, backward, weight)


def test_stages_that_share_a_lane_keep_the_laws():
    for stages, lanes in ((4, 2), (6, 3), (8, 2)):
        lane_of = [stage * lanes // stages for stage in range(stages)]
        programs = programs_for("zb_h1", stages, 5, lane_of)
        assert programs == fold(zb_h1(stages, 5), lane_of)
        obeys(programs, stages, 5)
        assert clock(programs).makespan <= clock(fold(one_f_one_b(stages, 5), lane_of), 1, 2).makespan
