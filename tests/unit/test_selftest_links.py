"""The links that `kparallel test` measures, with faults."""

import dataclasses
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kparallel.comm.neighbors import RingPosition
from kparallel.comm.ring import Ring
from kparallel.selftest.links import SIZE, Link, measure, table, verdict

ENDS = ("worker 0", "worker 1")


def both_ends(change=lambda all_reduce: all_reduce):
    """Measure a link between two threads; return what each end found.

    Args:
        change: Returns what worker 1 takes for its all-reduce.
    """
    pairs = [socket.socketpair() for _ in ENDS]
    rings = [Ring(RingPosition(own, 2, lambda: None), pairs[own][0], pairs[own - 1][1]) for own in (0, 1)]
    reductions = [rings[0].all_reduce, change(rings[1].all_reduce)]

    def end(own):
        try:
            return measure(ENDS, "network", own, reductions[own])
        finally:
            rings[own].abort()

    try:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(end, (0, 1)))
    finally:
        for each in (end for pair in pairs for end in pair):
            each.close()


def test_both_ends_measure_a_link():
    for link in both_ends():
        assert link.problem == "" and 0 < link.latency < 60 and link.rate > 0, link
        assert verdict(link, [link]) in ("ok", "SLOW: slower than an Ethernet of 100 Mbit/s")


def test_a_slow_link_is_named():
    def slow(all_reduce):
        def later(array):
            time.sleep(0.5 if array.size == SIZE else 0)
            return all_reduce(array)

        return later

    link, _ = both_ends(slow)
    assert link.problem == "" and link.rate < 4 * SIZE / 0.5
    fast = Link(("worker 0", "worker 2"), "network", 1e-4, 1e9)
    assert verdict(fast, [link, fast]) == "ok" and verdict(link, [link]).startswith("SLOW: slower than an Ethernet")
    assert table([link, fast]).splitlines()[1].endswith("times slower than the fastest network link")
    other = dataclasses.replace(link, kind="one host")
    assert verdict(other, [link, fast, other]) == "ok"  # Links of another kind are no measure.


def test_a_wrong_sum_breaks_a_link():
    def wrong(all_reduce):
        def nudged(array):
            total = all_reduce(array)
            total[-1] += total.size == SIZE
            return total

        return nudged

    first, second = both_ends(wrong)
    assert second.problem == "wrong result: expected 1 + 2 = 3 of each element, received 4.0"
    assert "worker" in first.problem  # The other end left.
    assert "  BROKEN: wrong result: expected 1 + 2 = 3" in table([second])


def test_an_end_that_leaves_breaks_a_link():
    def leaves(all_reduce):
        def leave(array):
            raise ConnectionResetError("unplugged")

        return leave

    first, second = both_ends(leaves)
    assert second.problem == "unplugged" and "it hung up" in first.problem


@pytest.mark.parametrize("total", [np.zeros(0, np.float32), np.full(SIZE, np.nan, np.float32)])
def test_what_is_no_sum_breaks_a_link(total):
    assert measure(ENDS, "network", 0, lambda array: total).problem.startswith("wrong result")
