"""The law over the table of steps as users write them: a wrapped fit equals the plain one."""

import functools

import pytest

from tests.equality.measure import differences
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import plain, wrapped
from tests.ownstep.programs import PROGRAMS

reference = functools.cache(plain)


# The default run trains these on two workers, and here in `full` alone.
ON_WORKERS = ("adversaries", "rows_against_all", "reconstruction", "inherited", "sharpness_aware")


def some_in_full():
    """Return every program with 2 and with 3 replicas; the default run takes most with one of them."""
    for index, name in enumerate(PROGRAMS):
        for replicas in (2, 3):
            chosen = index % 2 == replicas % 2 and name not in ON_WORKERS
            yield pytest.param(name, replicas, marks=() if chosen else pytest.mark.full)


@pytest.mark.parametrize(("name", "replicas"), list(some_in_full()))
def test_a_step_of_ones_own_equals_plain_keras(name, replicas):
    found = differences(wrapped(name, replicas), reference(name))
    far = {entry: difference for entry, difference in found.items() if not difference <= FLOAT64}
    assert not far
