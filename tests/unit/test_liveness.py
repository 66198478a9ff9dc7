"""Signs of life of the next worker: of a server that answers, that does not, and that is stopped and goes on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from kparallel.cluster import Cluster
from kparallel.comm.liveness import LivenessProbe, responds
from kparallel.launcher.local import free_addresses

# What TensorFlow starts in every worker.
SERVER = """
import sys, tensorflow as tf
server = tf.distribute.Server({"worker": [sys.argv[1]]}, "worker", 0)
print("ready", flush=True)
server.join()
"""


@pytest.fixture
def address():
    (address,) = free_addresses(1)
    return address


@contextlib.contextmanager
def listening(address, answer):
    """A server that takes every connection and answers it, or not."""
    host, _, port = address.rpartition(":")
    kept = []
    with socket.create_server((host, int(port))) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)
    for line in kept:
        line.close()


def seconds_until_frozen(address, heartbeat, limit):
    """Ask again and again; return after how long the next worker counted as frozen, or None."""
    pulse = LivenessProbe(Cluster(("127.0.0.1:1", address), 0), heartbeat)
    start = time.monotonic()
    while time.monotonic() - start < limit:
        if pulse.frozen() is not None:
            assert pulse.frozen() == 1
            return time.monotonic() - start
        time.sleep(0.05)
    return None


def test_a_worker_that_answers_is_not_frozen(address):
    with listening(address, b"\0"):
        assert seconds_until_frozen(address, heartbeat=2.0, limit=5) is None


def test_one_that_does_not_is_after_the_heartbeat(address):
    with listening(address, b""):
        assert 0.5 <= seconds_until_frozen(address, heartbeat=0.5, limit=60) < 60


def test_one_that_is_gone_is_after_the_heartbeat(address):
    assert 0.5 <= seconds_until_frozen(address, heartbeat=0.5, limit=60) < 60


def test_tensorflows_server_answers_unless_its_process_is_stopped(address):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", SERVER, address]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        assert responds(address, 20)
        server.send_signal(signal.SIGSTOP)
        os.waitpid(server.pid, os.WUNTRACED)  # Until all of its threads stand still.
        assert not responds(address, 0.5)
        server.send_signal(signal.SIGCONT)
        assert responds(address, 20)
    finally:
        server.kill()
        server.communicate()
    assert not responds(address, 0.5)
