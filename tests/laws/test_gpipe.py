"""GPipe: all forward passes, then all backward passes."""

import pytest

from kparallel.schedule import (
    check,
    clock,
    gpipe,
    in_flight,
)
from tests.laws.obeys import SIZES, obeys


def test_it_obeys_the_laws_and_takes_the_time_of_the_paper():
    for stages, microbatches in SIZES:
        programs = gpipe(stages, microbatches)
        check(programs, stages, microbatches)
        obeys(programs, stages, microbatches)
        for forward, backward in ((1, 1), (1, 2)):
            assert clock(programs, forward, backward).makespan == (microbatches + stages - 1) * (forward + backward)
        bubble = (stages - 1) / (microbatches + stages - 1)
        assert clock(programs, 1, 2).bubble == pytest.approx(bubble, abs=1e-12)


def test_all_microbatches_are_in_flight():
    for stages, microbatches in SIZES:
        assert in_flight(gpipe(stages, microbatches)) == (microbatches,) * stages
