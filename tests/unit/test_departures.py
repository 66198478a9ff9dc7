"""When the wait for a worker whose script has ended is cut short."""

import os
import threading
import time

import pytest

from kparallel.comm.departures import Departures


@pytest.fixture
def told():
    """Departures whose pipe can be written, and what they aborted."""
    descriptor, pipe = os.pipe()
    aborted = []
    happened = threading.Event()

    def abort(message):
        aborted.append(message)
        happened.set()

    yield Departures(descriptor, abort, settle=1.0), lambda line: os.write(pipe, line), aborted, happened
    os.close(pipe)


@pytest.mark.parametrize("first", ["the wait", "the end"])
def test_a_wait_for_a_worker_that_has_ended_is_cut_short(told, first):
    departures, tell, aborted, happened = told
    if first == "the end":
        tell(b"1\n")
        time.sleep(0.05)
    with departures.waiting():
        if first == "the wait":
            tell(b"1\n")
        assert happened.wait(20)
    assert aborted == ["from /job:worker/replica:0/task:1: its script has ended"]


def test_a_wait_that_ends_by_itself_is_left_alone(told):
    departures, tell, aborted, _ = told
    tell(b"1\n")
    for _ in range(25):  # Together longer than `settle`.
        with departures.waiting():
            time.sleep(0.05)
    assert aborted == []
