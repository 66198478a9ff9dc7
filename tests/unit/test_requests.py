"""What a server answers: its clock, memory and cores, and a profile that it keeps until it is told to drop it."""

import os
import time
from pathlib import Path

import tensorflow as tf

from kparallel.machines.requests import CLOCK, CORES, DROP, MEMORY, RECORD, STOP, Requests


def test_a_server_tells_its_clock_its_memory_and_its_cores():
    requests = Requests()
    before = time.time_ns()
    assert before <= requests.answer(CLOCK) <= time.time_ns()
    now, most = requests.answer(MEMORY)
    assert 2**20 < now <= most
    assert requests.answer(CORES) == sorted(os.sched_getaffinity(0))
    assert requests.answer("of a later version") == ""


def test_a_profile_is_kept_until_it_is_dropped():
    requests = Requests()
    assert requests.answer(STOP) == ""
    assert requests.answer(RECORD) == ""
    tf.constant(1.0) + 1.0
    folder = Path(requests.answer(STOP))
    assert list(folder.glob("plugins/profile/*/*.xplane.pb"))
    assert requests.answer(STOP) == ""
    requests.answer(DROP)
    assert not folder.exists()
    requests.answer(RECORD)
    requests.answer(DROP)
    requests.answer(RECORD)  # The profiler is free again.
    requests.answer(DROP)
