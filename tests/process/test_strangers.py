"""Workers whose ports strangers connect to, each worker in a process of its own, without TensorFlow."""

import json
import socket
import subprocess
import sys
import time

import pytest

from kparallel.comm.endpoint import TIMEOUT
from kparallel.handshake import Messages
from kparallel.launcher.local import free_addresses
from tests.process.light_gang import wait_until
from tests.processes import ENVIRONMENT

# Waits for its peers at the start, as every worker does.
MEETS = """
import os
from kparallel.cluster import read_cluster
from kparallel.rendezvous import to_stderr, wait_for_peers
to_stderr("waits")
wait_for_peers(read_cluster(os.environ), {}, 120, to_stderr, "secret")
to_stderr("has met its peers")
"""


def worker(script, addresses, index):
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=ENVIRONMENT | {"TF_CONFIG": json.dumps(task)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def workers():
    started = []

    def start(script, addresses, indices):
        started.extend(worker(script, addresses, index) for index in indices)
        return started[-len(indices) :]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def connected(address):
    """Connect as soon as somebody listens."""
    host, port = address.split(":")
    ends = []

    def listens():
        try:
            ends.append(socket.create_connection((host, int(port)), 20))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(listens, 120)
    return ends[0]


def test_a_forged_greeting_takes_no_workers_place(workers):
    """It knows everything but the token, and says as worker 1 that it gives up, for a reason of its own."""
    addresses = free_addresses(2)
    (chief,) = workers(MEETS, addresses, [0])
    forged = Messages(1, 2, "")
    with connected(addresses[0]) as stranger:
        stranger.sendall(forged.write({"handshake": {"cluster": ""}}) + forged.write({"gave_up": "an invented reason"}))
        assert stranger.makefile("rb").read() == b""
    assert chief.poll() is None  # It waits for the true worker 1.
    (other,) = workers(MEETS, addresses, [1])
    told = [process.communicate(timeout=180)[1] for process in (chief, other)]
    assert [chief.returncode, other.returncode] == [0, 0], told
    assert "dropped a connection from 127.0.0.1: " in told[0] and "KPARALLEL_TOKEN" in told[0]
    assert "an invented reason" not in told[0] and all("has met its peers" in text for text in told)


# Connects to the next worker, and sums over both. The first line that it reads has both workers' endpoints.
SUMS = """
import dataclasses, json, os, sys, time
import numpy as np
from kparallel.cluster import read_cluster
from kparallel.comm.endpoint import Endpoint, connect_ring, listen
from kparallel.comm.neighbors import RingPosition
from kparallel.comm.ring import Ring

cluster = read_cluster(os.environ)
listener, endpoint = listen(cluster)
print(json.dumps(dataclasses.asdict(endpoint)), flush=True)
endpoints = [Endpoint(**each) for each in json.loads(sys.stdin.readline())]
start = time.monotonic()
((after, before),) = connect_ring(listener, endpoints, cluster.index, 1)
ring = Ring(RingPosition(cluster.index, 2, lambda: None), after, before)
print(ring.all_reduce(np.array([cluster.index + 1.0])).item(), time.monotonic() - start, flush=True)
"""


@pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.2")])
def test_a_silent_connection_keeps_no_worker_waiting(workers, hosts):
    """It is there before the other worker is, and stays."""
    both = workers(SUMS, tuple(f"{host}:{number + 1}" for number, host in enumerate(hosts)), [0, 1])
    endpoints = [json.loads(process.stdout.readline()) for process in both]
    silent = []
    for each in endpoints:
        if each["host"]:
            silent.append(socket.create_connection((each["host"], int(each["name"])), 20))
        else:
            silent.append(socket.socket(socket.AF_UNIX))
            silent[-1].connect("\0" + each["name"])
    for process in both:
        process.stdin.write(json.dumps(endpoints) + "\n")
        process.stdin.flush()
    start = time.monotonic()
    answers = [process.stdout.readline().split() for process in both]
    for end in silent:
        end.close()
    assert [float(total) for total, _ in answers] == [3.0, 3.0]
    assert time.monotonic() - start < TIMEOUT and max(float(seconds) for _, seconds in answers) < TIMEOUT
