"""Whether the next worker lives."""

import socket
import threading
import time

from kparallel.cluster import Cluster, host_and_port

__all__: list[str] = []

_INTERVAL = 2.0  # Seconds between questions.
# What an HTTP/2 client says first, and settings of which none differ from the usual (RFC 9113, 3.4 and 6.5).
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


class LivenessProbe:
    """Tells whether the next worker of the ring gives signs of life; it asks only while somebody waits.

    It greets the server that TensorFlow runs in every worker, whose own threads answer whatever Python does there.
    TensorFlow's coordination service knows the same, but lives on the chief: who asks a frozen chief waits for it,
    and holds the interpreter's lock meanwhile.

    Args:
        cluster: The workers.
        heartbeat: Seconds without a sign of life after which a worker is lost.
    """

    def __init__(self, cluster: Cluster, heartbeat: float) -> None:
        self._next = (cluster.index + 1) % len(cluster.workers)
        self._address = cluster.workers[self._next]
        self._heartbeat = heartbeat
        self._asked = threading.Event()
        self._silent = False
        threading.Thread(target=self._watch, name="kparallel-liveness", daemon=True).start()

    def frozen(self) -> int | None:
        """Return the next worker's index if it gives no sign of life, or None; call it again while you wait."""
        self._asked.set()
        return self._next if self._silent else None

    def _watch(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            until = time.monotonic() + self._heartbeat
            while not (lives := responds(self._address, until - time.monotonic())) and time.monotonic() < until:
                time.sleep(min(_INTERVAL, self._heartbeat / 4))
            self._silent = not lives
            time.sleep(_INTERVAL)


def responds(address: str, timeout: float) -> bool:
    """Return whether the gRPC server at an address responds a greeting in time.

    Args:
        address: Host and port.
        timeout: Seconds.
    """
    try:
        with socket.create_connection(host_and_port(address), max(timeout, 0.01)) as line:
            line.sendall(_HTTP2_PREFACE)
            return bool(line.recv(1))
    except OSError:
        return False
