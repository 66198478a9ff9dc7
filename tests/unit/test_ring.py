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


@pytest.mark.parametrize(
    "sizes", [[[3], [4]], [[], [5, 0, 2]], [[2, 1], [], [PIECE // 8 + 1, 3]], [[1], [2], [3], [4]]]
)
def test_each_worker_gets_the_sums_of_its_arrays_and_then_those_of_all_others(connected, sizes):
    rng, workers = np.random.default_rng(0), len(sizes)
    rings = connected(workers)
    given = [[[rng.integers(-8, 8, n).astype("float64") for n in of_one] for of_one in sizes] for _ in range(workers)]
    expected = [[np.sum([own[w][i] for own in given], 0) for i in range(len(sizes[w]))] for w in range(workers)]
    parts = at_once([lambda r=ring, own=own: r.reduce_scatter(own) for ring, own in zip(rings, given, strict=True)])
    for found, of_one in zip(parts, expected, strict=True):
        assert len(found) == len(of_one) and all(map(np.array_equal, found, of_one))
        assert all(each.ctypes.data % 64 == 0 for each in found if each.size)
    dtype = np.dtype("float64")
    pairs = list(zip(rings, parts, strict=True))
    calls = [lambda r=ring, own=own: r.all_gather_arrays(own, sizes, dtype) for ring, own in pairs]
    for index, found in enumerate(at_once(calls)):
        assert all(len(a) == len(b) and all(map(np.array_equal, a, b)) for a, b in zip(found, expected, strict=True))
        assert found[index] is parts[index]


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
