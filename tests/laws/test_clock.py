"""The simulated time of a schedule."""

import pytest

from kparallel.schedule import (
    clock,
    fold,
    one_f_one_b,
)


def test_clock_counts_transfers_between_lanes_only():
    apart, together = one_f_one_b(2, 1), fold(one_f_one_b(2, 1), [0, 0])
    assert clock(apart, 1, 2, transfer=0.5).makespan == 7
    assert clock(together, 1, 2, transfer=0.5).makespan == 6
    assert clock(apart, [1, 2], [3, 4]).makespan == 10


def test_a_lane_waits_for_what_it_reads():
    times = clock(one_f_one_b(2, 2), [1, 2], [3, 4])
    started = {str(action): start for action, start in times.start.items()}
    assert started == {"0F0": 0, "0F1": 1, "1F0": 1, "1B0": 3, "0B0": 7, "1F1": 7, "1B1": 9, "0B1": 13}
    assert times.makespan == 16 and times.bubble == pytest.approx(1 - 20 / 32)
