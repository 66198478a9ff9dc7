"""A worker's connections to its neighbors in a ring: bytes to the next one, bytes from the previous one.

```text
    previous ──data──► this worker ──data──► next
             ◄─notice─             ◄─notice─         which worker is lost, over the same connections
```
"""

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

__all__: list[str] = []

_PATIENCE = 0.25  # Seconds of waiting after which a worker polls for failures.
_NOTICE = struct.Struct("!I?")  # Index of the lost worker, and whether it is frozen.


class LostError(Exception):
    """A worker of the ring is lost.

    Args:
        worker: The index of the lost worker.
        frozen: Whether it gives no sign of life; otherwise it closed its connections.
        own: Whether it is this worker, which left after an error of its own.
    """

    def __init__(self, worker: int, frozen: bool, own: bool = False) -> None:
        how = "sends no heartbeat" if frozen else "hung up"
        text = f"from /job:worker/replica:0/task:{worker}: it {how}"
        left = "this worker left the exchange at an error in an earlier step; fit, evaluate and predict join it again"
        super().__init__(left if own else text)
        self.worker = worker
        self.frozen = frozen


@dataclass(frozen=True)
class RingPosition:
    """The place of a worker in a ring.

    Args:
        index: The worker's index.
        workers: The number of workers, at least two.
        frozen: Returns the index of a worker that gives no sign of life, or None.
    """

    index: int
    workers: int
    frozen: Callable[[], int | None]

    @property
    def next(self) -> int:
        """The index of the worker that this one sends to."""
        return (self.index + 1) % self.workers

    @property
    def previous(self) -> int:
        """The index of the worker that this one receives from."""
        return (self.index - 1) % self.workers


class Neighbors:
    """The connections of one worker to the workers before and after it.

    Every read and every wait ends when a worker is lost: the one that finds out tells the previous one, so that all
    workers of the ring name the same.

    Args:
        position: This worker's.
        after: A connection that the next worker has accepted.
        before: A connection from the previous worker.
    """

    def __init__(self, position: RingPosition, after: socket.socket, before: socket.socket) -> None:
        self._position = position
        self._closing = threading.Lock()
        self._after = after
        self._before = before
        # Set once. From then on every call raises it, and the connections are shut.
        self.lost: LostError | None = None
        # A read returns after this time, so that the reader can poll for failures.
        before.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(_PATIENCE * 1e6)))
        self._sends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        arguments = (self._sends, after)
        threading.Thread(target=_send_all, args=arguments, name="kparallel-ring", daemon=True).start()

    def abort(self, lost: LostError | None = None) -> None:
        """Close the connections, and send the previous worker a failure notice.

        Args:
            lost: The lost worker; by default this worker itself.
        """
        with self._closing:
            # The first failure that a worker finds is the one it reports. What it finds afterwards follows from the
            # first.
            if self.lost is not None:
                return
            self.lost = lost or LostError(self._position.index, False, own=True)
        with contextlib.suppress(OSError):
            # Without waiting: the previous worker may be the lost one, and read nothing any more.
            self._before.send(_NOTICE.pack(self.lost.worker, self.lost.frozen), socket.MSG_DONTWAIT)
        for end in (self._before, self._after):
            with contextlib.suppress(OSError):
                # `shutdown` wakes a thread that waits in the socket. `close` would not, and would free its number for
                # another file.
                end.shutdown(socket.SHUT_RDWR)
        self._sends.put(None)

    def close(self) -> None:
        """Leave, and free the sockets."""
        self.abort()
        for end in (self._before, self._after):
            end.close()

    def put(self, array: np.ndarray[Any, Any]) -> None:
        """Queue an array to be sent. It must not be changed before `flush` returns."""
        self._sends.put(array.view(np.uint8))

    def flush(self) -> None:
        """Wait until all queued arrays have been passed to the socket."""
        done = threading.Event()
        self._sends.put(done)
        while not done.wait(_PATIENCE):
            self._poll_failures()
        if self.lost is not None:
            raise self.lost

    def receive(self, into: np.ndarray[Any, Any]) -> None:
        """Fill an array with bytes from the previous worker."""
        view = into.view(np.uint8).data
        while len(view):
            try:
                count = self._before.recv_into(view, len(view), socket.MSG_WAITALL)
            except BlockingIOError:  # Nothing came for `_PATIENCE` seconds.
                self._poll_failures()
                continue
            except OSError:
                count = 0
            if count == 0:
                self._on_disconnect()
            # A signal or the timeout may end a read before the array is full.
            view = view[count:]

    def _poll_failures(self) -> None:
        """Raise if a worker is lost. It is called after some time of waiting."""
        frozen = self._position.frozen()
        if frozen is not None:
            self._fail(frozen, frozen=True)
        notice = self._read_failure_notice()
        if notice is not None:
            self._fail(*notice)

    def _read_failure_notice(self) -> tuple[int, bool] | None:
        """Return (lost worker, whether it is frozen) from the next worker's notice, or None if it sent none.

        If the next worker closed the connection without a notice, it is itself the lost one.
        """
        try:
            # Data go over this connection in the other direction only, so whatever can be read from it is a notice.
            notice = self._after.recv(_NOTICE.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            notice = b""
        return _NOTICE.unpack(notice) if notice else (self._position.next, False)

    def _on_disconnect(self) -> NoReturn:
        """Raise after the previous worker closed its connection.

        It may have done so because another worker is lost. Then a notice travels backwards through the ring and reaches
        this worker from the next one; it gets the time for that.
        """
        until = time.monotonic() + 2 * _PATIENCE * self._position.workers
        notice = None
        while notice is None and self.lost is None and time.monotonic() < until:
            time.sleep(0.01)
            notice = self._read_failure_notice()
        self._fail(*(notice or (self._position.previous, False)))

    def _fail(self, worker: int, frozen: bool = False) -> NoReturn:
        self.abort(LostError(worker, frozen))
        assert self.lost is not None
        raise self.lost


def _send_all(sends: queue.SimpleQueue[Any], after: socket.socket) -> None:
    """Send what is put, in a thread of its own: a worker that only sent would wait for one that only sends."""
    broken = False
    while (item := sends.get()) is not None:
        if isinstance(item, threading.Event):
            if not broken:
                item.set()
            continue
        try:
            if not broken:
                after.sendall(item)
        except OSError:
            broken = True  # The receiving side finds out who it is.
