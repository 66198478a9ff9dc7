"""1F1B: as fast as GPipe, with no more microbatches in flight than there are stages."""

from kparallel.schedule import (
    check,
    clock,
    in_flight,
    one_f_one_b,
)
from tests.laws.obeys import SIZES, obeys


def test_it_obeys_the_laws_and_takes_as_long_as_gpipe():
    for stages, microbatches in SIZES:
        programs = one_f_one_b(stages, microbatches)
        check(programs, stages, microbatches)
        obeys(programs, stages, microbatches)
        for forward, backward in ((1, 1), (1, 2)):
            assert clock(programs, forward, backward).makespan == (microbatches + stages - 1) * (forward + backward)


def test_a_stage_holds_as_many_microbatches_as_stages_follow():
    for stages, microbatches in SIZES:
        held = in_flight(one_f_one_b(stages, microbatches))
        assert held == tuple(min(microbatches, stages - stage) for stage in range(stages))
