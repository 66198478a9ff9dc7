"""The thread that exchanges arrays between workers while the step computes."""

import threading

import numpy as np
import pytest

from kparallel.comm.comm_thread import CommThread, gather, joining, reducing, summing
from kparallel.comm.neighbors import LostError
from tests.unit.rings import SECONDS, add


@pytest.fixture
def comm_threads(connected):
    """Give what returns for each worker its comm_thread, and for each replica what is set when it is woken."""
    made = []

    def comm_threads(workers, replicas):
        woken = [[threading.Semaphore(0) for _ in range(replicas)] for _ in range(workers)]
        rings = connected(workers)
        some = [CommThread(ring, [w.release for w in mine]) for ring, mine in zip(rings, woken, strict=True)]
        made.extend(some)
        return some, woken

    yield comm_threads
    for comm_thread in made:
        comm_thread.stop()


def test_comm_threads_sum_the_replicas_of_every_worker_in_memory_of_their_own(comm_threads):
    made, woken = comm_threads(2, replicas=2)
    work = summing(add)
    numbers = [
        [comm_thread.submit(r, work, [np.full(5, 10.0 * w + r)]) for r in range(2)]
        for w, comm_thread in enumerate(made)
    ]
    taken = []
    for w, comm_thread in enumerate(made):
        for r in range(2):
            assert woken[w][r].acquire(timeout=SECONDS)
            taken += comm_thread.result(r, numbers[w][r])
    assert [array.tolist() for array in taken] == [[22.0] * 5] * 4
    taken[0][:] = 0
    assert (taken[1] == 22.0).all()


def test_comm_threads_sum_to_one_worker_and_give_each_replica_what_the_others_have(comm_threads):
    made, woken = comm_threads(2, replicas=2)

    def results(work, given):
        """Return `[worker][replica][array]`."""
        numbers = [
            [each.submit(r, work, [np.array(array, float) for array in given[w][r]]) for r in range(2)]
            for w, each in enumerate(made)
        ]
        taken = []
        for w, comm_thread in enumerate(made):
            for r in range(2):
                assert woken[w][r].acquire(timeout=SECONDS)
            taken.append([comm_thread.result(r, numbers[w][r]) for r in range(2)])
        return taken

    # Each replica of each worker has an array for worker 0 and two for worker 1.
    given = [[[[1], [2, 3], [4]], [[10], [20, 30], [40]]], [[[0.5], [0.5, 0.5], [0.5]], [[0], [0, 0], [0]]]]
    summed = results(reducing(add, [1, 2]), given)
    assert [[array.tolist() for array in replica] for replica in summed[0]] == [[[11.5]], [[11.5]]]
    assert [[array.tolist() for array in replica] for replica in summed[1]] == [[[22.5, 33.5], [44.5]]] * 2
    assert not np.shares_memory(summed[1][0][0], summed[1][1][0])
    owned = [[[[1, 2]], [[3], [4]]], [[], [[5]]]]
    joined = results(joining([[2], [1, 1], [], [1]], np.dtype(float)), owned)
    lists = [[[array.tolist() for array in replica] for replica in worker] for worker in joined]
    assert lists[0] == [[[3], [4], [5]], [[1, 2], [5]]]
    assert lists[1] == [[[1, 2], [3], [4], [5]], [[1, 2], [3], [4]]]
    assert not np.shares_memory(joined[1][0][0], joined[1][1][0])


def test_comm_threads_gather_rows_of_different_numbers(comm_threads):
    made, woken = comm_threads(2, replicas=2)
    rows = [[1, 0], [3, 2]]
    given = [
        [[np.full((rows[w][r], 2), 10 * w + r, "int16"), np.ones(rows[w][r], bool)] for r in (0, 1)] for w in (0, 1)
    ]
    for w, comm_thread in enumerate(made):
        for r in (0, 1):
            assert comm_thread.submit(r, gather, given[w][r]) == 1
    for w, comm_thread in enumerate(made):
        for r in (0, 1):
            assert woken[w][r].acquire(timeout=SECONDS)
            whole = comm_thread.result(r, 1)
            for index, (sent, got) in enumerate(
                zip([part[0] for two in given for part in two], whole[:4], strict=True)
            ):
                np.testing.assert_array_equal(got, sent, err_msg=str(index))
                assert got.dtype == "int16"
            assert [part.tolist() for part in whole[4:]] == [[True], [], [True] * 3, [True] * 2]


def test_a_comm_thread_hands_the_error_to_every_replica(comm_threads):
    (one, _), woken = comm_threads(2, replicas=1)
    one.abort()
    number = one.submit(0, summing(add), [np.zeros(2)])
    assert woken[0][0].acquire(timeout=SECONDS)
    with pytest.raises(LostError):
        one.result(0, number)
