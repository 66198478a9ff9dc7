"""All-reduce and all-gather over a ring, each worker in a thread of one process."""

import ml_dtypes
import numpy as np
import pytest

from kparallel.comm.neighbors import LostError
from kparallel.comm.ring import PIECE
from tests.unit.rings import at_once


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


@pytest.mark.parametrize("counts", [(3, 4), (0, 5), (2, 0, PIECE // 8 + 1), (1, 2, 3, 4)])
def test_each_worker_gets_the_sum_of_its_elements_and_the_parts_join_in_the_order_of_the_workers(connected, counts):
    rng, workers = np.random.default_rng(0), len(counts)
    rings, ends = connected(workers), np.cumsum([0, *counts])
    given = [rng.integers(-8, 8, sum(counts)).astype("float64") for _ in range(workers)]
    calls = [lambda r=ring, own=own: r.reduce_scatter(own, counts) for ring, own in zip(rings, given, strict=True)]
    parts = at_once(calls)
    for index, part in enumerate(parts):
        np.testing.assert_array_equal(part, np.sum(given, 0)[ends[index] : ends[index + 1]])
    calls = [lambda r=ring, own=own: r.all_gather_parts(own, counts) for ring, own in zip(rings, parts, strict=True)]
    for total in at_once(calls):
        np.testing.assert_array_equal(total, np.sum(given, 0))
        assert total.ctypes.data % 64 == 0


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
