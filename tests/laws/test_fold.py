"""Programs for a lane each, folded onto fewer lanes."""

import pytest

from kparallel.schedule import (
    check,
    clock,
    fold,
    forward_only,
    gpipe,
    one_f_one_b,
)
from tests.laws.obeys import obeys


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b, forward_only])
def test_fold(schedule):
    backward = schedule is not forward_only
    for stages, microbatches in [(2, 1), (2, 5), (4, 3), (4, 8), (6, 7), (8, 4)]:
        for lanes in range(1, stages):
            for homes in ([s % lanes for s in range(stages)], [s * lanes // stages for s in range(stages)]):
                programs = fold(schedule(stages, microbatches), homes)
                check(programs, stages, microbatches, backward=backward)
                obeys(programs, stages, microbatches, backward=backward)
                for own in schedule(stages, microbatches):
                    home = programs[homes[own[0].stage]]
                    assert tuple(action for action in home if action.stage == own[0].stage) == own
        alone = fold(schedule(stages, microbatches), [0] * stages)
        assert clock(alone).bubble == 0
