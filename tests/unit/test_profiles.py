"""Profiles of several machines on one clock; `tests/cluster/one_program.py` records two real ones."""

import time

import pytest
import tensorflow as tf

from kparallel.compat.profiler import XSpace
from kparallel.machines.profiles import ServerProfiles, events_of
from kparallel.machines.requests import CLOCK, DROP, RECORD, STOP, Requests


def profile(start, name):
    """A profile that begins at a moment of the wall clock, with an event of 2 s that begins 1 s later."""
    space = XSpace()
    host = space.planes.add(name="/host:CPU")
    host.event_metadata[1].name = name
    line = host.lines.add(name="pool", id=1, timestamp_ns=1_000_000_000)
    line.events.add(metadata_id=1, offset_ps=0, duration_ps=2 * 10**12)
    environment = space.planes.add(name="Task Environment")
    environment.stat_metadata[1].name = "profile_start_time"
    environment.stats.add(metadata_id=1, uint64_value=start)
    return space.SerializeToString()


def test_the_times_of_a_server_are_brought_to_the_programs_clock():
    # The server's clock is 100 s ahead; its profile began 3 s before the program's, at 5 s of its clock.
    own, other = profile(8 * 10**9, "own"), profile(105 * 10**9, "other")
    found = {(event.thread, event.name): event.start for event in events_of([own], {1: [other]}, {1: 100 * 10**9})}
    assert found == {("pool/1", "own"): 0.0, ("worker1/pool/1", "other"): pytest.approx(-3.0)}


class Asked:
    """A program of one server, whose clock is a second ahead; it answers slowly at first."""

    def __init__(self, requests):
        self.requests = requests
        self.slow = iter([0.2, 0.0, 0.0, 0.0, 0.0])
        self.asked = []

    def ask(self, request):
        self.asked.append(request)
        if request == CLOCK:
            time.sleep(next(self.slow))
            return {1: time.time_ns() + 10**9}
        return {1: self.requests.answer(request)}


def test_clocks_are_compared_by_the_fastest_answer():
    assert ServerProfiles(Asked(Requests())).clocks_ahead()[1] == pytest.approx(10**9, abs=5 * 10**7)


def test_what_a_server_recorded_is_read_and_dropped_there():
    program = Asked(Requests())
    recorded = ServerProfiles(program, lambda worker: "CPU:0")
    recorded.start()
    with tf.profiler.experimental.Trace("within"):
        pass
    [profile] = recorded.stop()[1]
    assert [event for event in events_of([profile], {}, {}) if event.name == "within"]
    assert program.asked == [RECORD, STOP, DROP]
    recorded.drop()
    assert recorded.stop() == {}
