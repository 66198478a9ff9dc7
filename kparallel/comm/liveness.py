"""A liveness probe of the next worker in the ring."""

import socket
import threading
import time

from kparallel.cluster import Cluster, host_and_port

__all__: list[str] = []

_INTERVAL = 2.0  # Seconds between probes.
# The preface of an HTTP/2 client and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


class LivenessProbe:
    """Probes whether the next worker of the ring is alive, but only while a caller waits for it.

    It opens an HTTP/2 connection to the gRPC server that TensorFlow runs in every worker. The server has threads of its
    own and responds whatever Python does there. TensorFlow's coordination service has the same information, but runs on
    the chief: a query blocks while the chief is frozen, and holds the interpreter's lock meanwhile.

    Args:
        cluster: The workers.
        heartbeat: Seconds without a response after which a worker is lost.
    """

    def __init__(self, cluster: Cluster, heartbeat: float) -> None:
        self._next = (cluster.index + 1) % len(cluster.workers)
        self._address = cluster.workers[self._next]
        self._heartbeat = heartbeat
        self._asked = threading.Event()
        self._silent = False
        threading.Thread(target=self._watch, name="kparallel-liveness", daemon=True).start()

    def frozen(self) -> int | None:
        """Return the next worker's index if it does not respond, or None. Call it again and again while waiting."""
        self._asked.set()
        return self._next if self._silent else None

    def _watch(self) -> None:
        while True:
            self._asked.wait()
            # One probe for each question at most. While nobody waits for the worker, nothing is sent.
            self._asked.clear()
            self._silent = is_silent(self._address, self._heartbeat)
            time.sleep(_INTERVAL)


def is_silent(address: str, heartbeat: float) -> bool:
    """Return whether the gRPC server at an address does not respond for some time.

    Args:
        address: Host and port.
        heartbeat: Seconds in which it is probed again and again: a busy machine may miss single probes.
    """
    until = time.monotonic() + heartbeat
    while not (lives := responds(address, until - time.monotonic())) and time.monotonic() < until:
        time.sleep(min(_INTERVAL, heartbeat / 4))
    return not lives


def responds(address: str, timeout: float) -> bool:
    """Return whether the gRPC server at an address responds to an HTTP/2 preface in time.

    Args:
        address: Host and port.
        timeout: The time limit in seconds.
    """
    try:
        with socket.create_connection(host_and_port(address), max(timeout, 0.01)) as line:
            line.sendall(_HTTP2_PREFACE)
            return bool(line.recv(1))
    except OSError:
        return False
