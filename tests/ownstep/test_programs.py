"""The law over the table of steps as users write them: a wrapped fit equals the plain one."""

import functools

import pytest

from tests.choice import some
from tests.equality.measure import differences
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import plain, wrapped
from tests.ownstep.programs import PROGRAMS

reference = functools.cache(plain)


# The default run trains these on two workers, and here in `full` alone.
ON_WORKERS = ("adversaries", "rows_against_all", "inherited", "sharpness_aware")


# Every program with 2 and with 3 replicas; the default run takes most with one of them.
PAIRS = [(name, replicas) for name in PROGRAMS for replicas in (2, 3)]
# Of these another program shows nearly as much: `full` has them.
ALIKE = ["jacobians", "siamese", "averaged_teacher", "guide_with_class_weight", "diffusion", "learned_noise"]
ALIKE += ["variational", "masked_language", "reconstruction", "penalized"]
LEFT = {*ON_WORKERS, *ALIKE}
CHOSEN = [(name, 2 + index % 2) for index, name in enumerate(PROGRAMS) if name not in LEFT]


@pytest.mark.parametrize(("name", "replicas"), some(PAIRS, *CHOSEN))
def test_a_step_of_ones_own_equals_plain_keras(name, replicas):
    found = differences(wrapped(name, replicas), reference(name))
    far = {entry: difference for entry, difference in found.items() if not difference <= FLOAT64}
    assert not far
