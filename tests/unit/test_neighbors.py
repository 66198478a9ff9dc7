"""A worker that is lost is named by every worker of the ring."""

import numpy as np
import pytest

from kparallel.comm.neighbors import LostError
from tests.unit.rings import at_once


@pytest.mark.parametrize("workers", [2, 4])
def test_all_name_the_worker_that_was_lost(connected, workers):
    rings = connected(workers)
    lost = workers - 1
    calls = [lambda r=ring: r.all_reduce(np.zeros(3)) for ring in rings[:lost]]
    assert [error.worker for error in at_once([*calls, lambda: connected.kill(rings[lost])])[:-1]] == [lost] * lost
    assert [error.worker for error in at_once(calls)] == [lost] * lost, "and again, without waiting"


def test_a_worker_that_leaves_is_named_while_others_wait(connected):
    rings = connected(4)
    calls = [lambda r=ring: r.all_gather(b"") for ring in rings[:3]]
    assert [error.worker for error in at_once([*calls, rings[3].abort])[:-1]] == [3, 3, 3]


def test_a_frozen_worker_is_named(connected):
    one, _ = connected(2, frozen={0: 1})
    with pytest.raises(LostError, match="task:1: it sends no heartbeat") as caught:
        one.all_reduce(np.zeros(3))
    assert caught.value.frozen


def test_all_hear_that_a_worker_is_frozen_from_the_one_before_it(connected):
    rings = connected(4, frozen={2: 3})
    found = at_once([lambda r=ring: r.all_gather(b"") for ring in rings[:3]])
    assert [(error.worker, error.frozen) for error in found] == [(3, True)] * 3
