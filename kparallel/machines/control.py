"""The connections between a program and the servers of its other machines, beside those of TensorFlow.

```text
server 1 ──{"server": 1}────► program     TensorFlow's server listens here
         ◄──{"connected": 1}──            all servers have said so, and TensorFlow has connected to them
         ──{"notice": 1}────►             SIGTERM came here: this machine is about to be taken away
         ◄──{"ask": "memory"}──           a request, see `requests.py`; one at a time
         ──{"answer": [1, 2]}───►
         ◄──{"ended": 0}──────            the script has ended, with this exit code
```

A connection that ends otherwise means that the process at its other end is gone. The program takes these connections on
its own port, before TensorFlow listens there, so that no other port has to be open between the machines. Each line has
a seal where the workers share a token.
"""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from kparallel.cluster import Cluster, host_and_port
from kparallel.errors import ClusterError, WorkerError
from kparallel.handshake import is_sealed, object_in, sealed_line

__all__: list[str] = []

_RETRY = 0.1
_PATIENCE = 5.0  # Seconds in which who connects has to say which server it is.
_PROGRESS = 5.0
_LINE = 1 << 10


class Line:
    """One connection, whose messages are lines of JSON.

    Args:
        end: The socket.
        token: What all workers know and nobody else; empty for none.
    """

    def __init__(self, end: socket.socket, token: str) -> None:
        self._end = end
        self._token = os.fsencode(token)
        self._unread = b""

    def send(self, **message: Any) -> None:
        """Say something; do nothing where nobody listens any more."""
        with contextlib.suppress(OSError):
            self._end.sendall(sealed_line(message, self._token))

    def read(self, seconds: float | None) -> dict[str, Any] | None:
        """Return the next message.

        Args:
            seconds: How long to wait for it; None for ever.

        Returns:
            The message; an empty one where none came in time; None where the other end is gone, or is a stranger.
        """
        self._end.settimeout(seconds)
        while b"\n" not in self._unread:
            try:
                block = self._end.recv(_LINE)
            except (TimeoutError, BlockingIOError):
                return {}
            except OSError:
                block = b""
            self._unread += block
            if not block or len(self._unread) > _LINE:
                return None
        line, _, self._unread = self._unread.partition(b"\n")
        return self._opened(line)

    def close(self) -> None:
        """End the connection."""
        self._end.close()

    def _opened(self, line: bytes) -> dict[str, Any] | None:
        message = object_in(line)
        if message is None:
            return None
        seal = message.pop("seal", "")
        return message if is_sealed(message, seal, self._token) else None


def accept_servers(cluster: Cluster, token: str, timeout: float, tell: Callable[[str], None]) -> dict[int, Line]:
    """Wait on the program's port until the server of each other machine has connected; then the port is free again.

    Args:
        cluster: The machines; this process is worker 0.
        token: What all workers know and nobody else; empty for none.
        timeout: Seconds to wait.
        tell: Takes lines on whom the program waits for.

    Returns:
        The connection to each server, by the index of its worker.

    Raises:
        ClusterError: The port is taken.
        WorkerError: A server does not come in time; the message names it.
    """
    _, port = host_and_port(cluster.address)
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        raise ClusterError(f"Worker {cluster.index} cannot listen on {cluster.address}: {error}.") from error
    lines: dict[int, Line] = {}
    start = shown = time.monotonic()
    with listener, selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        while missing := [index for index in range(len(cluster.workers)) if index not in (cluster.index, *lines)]:
            now, names = time.monotonic(), name_workers(cluster, missing)
            if now - start >= timeout:
                raise WorkerError(
                    f"The program waited {timeout:g} s for TensorFlow's server on {names}. Look at the end of its "
                    "output."
                )
            if now - shown >= _PROGRESS:
                shown = now
                tell(f"the program waits for TensorFlow's server on {names}, {now - start:.0f} s of {timeout:g} s")
            if ready.select(min(1.0, start + timeout - now)):
                end, _ = listener.accept()
                _admit(Line(end, token), missing, lines)
    return lines


def _admit(line: Line, missing: list[int], lines: dict[int, Line]) -> None:
    """Take the connection of a server; drop any other."""
    index = (line.read(_PATIENCE) or {}).get("server")
    if index in missing:
        lines[index] = line
    else:
        line.close()


def connect_to_program(cluster: Cluster, token: str, timeout: float) -> Line:
    """Connect to the program, and tell it that this machine's server listens.

    Args:
        cluster: The machines, seen from a server's.
        token: What all workers know and nobody else; empty for none.
        timeout: Seconds until the program must listen.

    Raises:
        WorkerError: It does not listen in time.
    """
    until = time.monotonic() + timeout
    while True:
        try:
            end = socket.create_connection(host_and_port(cluster.workers[0]), max(until - time.monotonic(), 0.01))
            break
        except OSError as error:
            if time.monotonic() >= until:
                raise WorkerError(
                    f"Worker {cluster.index} waited {timeout:g} s for the program on {name_workers(cluster, [0])}: "
                    f"{error}. Look at the end of its output."
                ) from error
            time.sleep(_RETRY)
    line = Line(end, token)
    line.send(server=cluster.index)
    return line


def name_workers(cluster: Cluster, indices: list[int]) -> str:
    """Return workers as messages name them.

    Example:
        >>> name_workers(Cluster(("a:1", "b:1"), 0), [1])
        'worker 1 (b:1)'
    """
    return ", ".join(f"worker {index} ({cluster.workers[index]})" for index in indices)
