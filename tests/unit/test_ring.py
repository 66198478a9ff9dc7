"""The ring between workers, each in a thread of one process."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from kparallel.comm.comm_thread import CommThread, gather, summing
from kparallel.comm.neighbors import LostError
from kparallel.comm.ring import PIECE, Ring

SECONDS = 30


class Rings:
    """Makes rings over sockets of its own."""

    def __init__(self):
        self.ends = {}

    def __call__(self, workers, frozen=()):
        """Return one ring for each worker; some find that another is frozen."""
        pairs = [socket.socketpair() for _ in range(workers)]
        seen = dict(frozen)
        rings = []
        for index in range(workers):
            ends = pairs[index][0], pairs[index - 1][1]
            rings.append(Ring(index, workers, *ends, lambda index=index: seen.get(index)))
            self.ends[rings[-1]] = ends
        return rings

    def kill(self, ring):
        """Do as the kernel does for a process that is killed."""
        for end in self.ends[ring]:
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def connected():
    rings = Rings()
    yield rings
    for ring in rings.ends:
        ring.close()


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


def at_once(calls):
    """Return what each call returns or raises, all running at the same time; one that hangs fails."""

    def caught(call):
        try:
            return call()
        except (LostError, ValueError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [answer.result(SECONDS) for answer in [pool.submit(caught, call) for call in calls]]


def add(own, total):
    np.add(own, total, out=total)


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", ml_dtypes.bfloat16, "complex64"])
def test_sums_are_right_and_equal_to_the_bit(connected, workers, dtype):
    rng = np.random.default_rng(0)
    rings = connected(workers)
    for size in (0, 1, workers, 1000, PIECE // 2 + 3):
        given = [rng.integers(-8, 8, size).astype(dtype) for _ in range(workers)]
        sums = at_once([lambda r=ring, own=own: r.all_reduce(own) for ring, own in zip(rings, given, strict=True)])
        for total in sums:
            np.testing.assert_array_equal(total, np.sum(given, 0).astype(dtype))
    given = [rng.normal(size=4099).astype(dtype) for _ in range(workers)]
    first, *others = at_once(
        [lambda r=ring, own=own: r.all_reduce(own) for ring, own in zip(rings, given, strict=True)]
    )
    assert all(first.tobytes() == other.tobytes() for other in others)


def test_more_than_sockets_hold_travels_both_ways(connected):
    given = [np.full(2**24, index + 1.0, "float32") for index in range(2)]
    for total in at_once(
        [lambda r=ring, own=own: r.all_reduce(own) for ring, own in zip(connected(2), given, strict=True)]
    ):
        assert total.min() == total.max() == 3.0 and total.ctypes.data % 64 == 0


def test_gathered_bytes_come_in_the_order_of_the_workers(connected):
    words = [b"", b"one", b"x" * 2**20]
    for answer in at_once(
        [lambda r=ring, w=word: r.all_gather(w) for ring, word in zip(connected(3), words, strict=True)]
    ):
        assert answer == words


def test_workers_that_do_different_things_raise_and_say_which(connected):
    one, other = connected(2)
    found = at_once([lambda: one.all_reduce(np.zeros(3)), lambda: other.all_reduce(np.zeros(4))])
    assert "Expected worker 1 to exchange number 1, 24 bytes of float64, received number 1, 32 bytes" in str(found[0])
    assert isinstance(found[1], ValueError | LostError)


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


def test_couriers_sum_the_replicas_of_every_worker_in_memory_of_their_own(comm_threads):
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


def test_couriers_gather_rows_of_different_numbers(comm_threads):
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


def test_a_courier_hands_the_error_to_every_replica(comm_threads):
    (one, _), woken = comm_threads(2, replicas=1)
    one.abort()
    number = one.submit(0, summing(add), [np.zeros(2)])
    assert woken[0][0].acquire(timeout=SECONDS)
    with pytest.raises(LostError):
        one.result(0, number)
