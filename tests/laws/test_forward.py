"""Forward passes alone."""

from kparallel.schedule import (
    check,
    clock,
    forward_only,
    in_flight,
)
from tests.laws.obeys import SIZES, obeys


def test_forward_only():
    for stages, microbatches in SIZES:
        programs = forward_only(stages, microbatches)
        check(programs, stages, microbatches, backward=False)
        obeys(programs, stages, microbatches, backward=False)
        assert clock(programs).makespan == microbatches + stages - 1
        assert in_flight(programs) == (0,) * stages
