"""A ring of workers over sockets: all-reduce of arrays and all-gather of bytes, without TensorFlow.

```text
    worker 0 ──► worker 1 ──► worker 2 ─┐      data go to the next worker;
        ▲                               │      failure notices go to the previous one, over the same connections
        └───────────────────────────────┘
```

To sum `n` elements over `W` workers each worker sends 2·(W−1)/W·n elements, which is the least possible (Patarasuk and
Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009).
"""

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

__all__: list[str] = []

PIECE = 2**20  # Bytes that are received, added and sent on together, while they are in the processor's cache.
_ALIGNED = 64  # Bytes. TensorFlow uses memory of this alignment in place, and copies other memory.
_PATIENCE = 0.25  # Seconds of waiting after which a worker polls for failures.
_HEADER = struct.Struct("!QQ16s")  # Serial number of the collective, bytes, dtype.
_NOTICE = struct.Struct("!I?")  # Index of the lost worker, and whether it is frozen.

Add = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], None]


def _add(summand: np.ndarray[Any, Any], total: np.ndarray[Any, Any]) -> None:
    np.add(summand, total, out=total)


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


class Ring:
    """The connections of one worker to its neighbors in the ring.

    Law: every worker makes the same calls in the same order. The results are equal on every worker, to the bit.

    Args:
        index: This worker's index.
        workers: The number of workers, at least two.
        after: A connection that the next worker has accepted.
        before: A connection from the previous worker.
        frozen: Returns the index of a worker that gives no sign of life, or None.
    """

    def __init__(
        self, index: int, workers: int, after: socket.socket, before: socket.socket, frozen: Callable[[], int | None]
    ) -> None:
        self._index = index
        self._workers = workers
        self._frozen = frozen
        self._closing = threading.Lock()
        self._exchanging = threading.Lock()
        self.generation = 0
        self._begin(after, before)

    def _begin(self, after: socket.socket, before: socket.socket) -> None:
        self._after = after
        self._before = before
        self._serial = 0
        self._lost: LostError | None = None
        # A read returns after this time, so that the reader can poll for failures.
        before.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(_PATIENCE * 1e6)))
        self._sends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        arguments = (self._sends, after)
        threading.Thread(target=_send_all, args=arguments, name="kparallel-ring", daemon=True).start()

    @property
    def is_aborted(self) -> bool:
        """Whether this worker has left, or lost another."""
        return self._lost is not None

    def renew(self, after: socket.socket, before: socket.socket) -> None:
        """Begin anew over other connections, after every worker has left; they count as another generation.

        Args:
            after: A connection that the next worker has accepted.
            before: A connection from the previous worker.
        """
        with self._exchanging:  # What still exchanges over the old ones finds out, and raises.
            self.close()
            self.generation += 1
            self._begin(after, before)

    def all_reduce(self, own: np.ndarray[Any, Any], add: Add = _add) -> np.ndarray[Any, Any]:
        """Sum arrays of one dim, of the same size and dtype on all workers.

        ```text
        worker               0          1          2           the array in as many segments as workers
        reduce-scatter       0 ──►      1 ──►      2 ──►       each sends its segment, then adds and sends on
        all-gather           complete segments travel once around the ring
        ```

        Args:
            own: This worker's array.
            add: Adds its first argument to its second, in place.

        Raises:
            LostError: A worker is lost.
            ValueError: The previous worker runs another collective.
        """
        with self._exchanging:
            return self._sum(own, add)

    def _sum(self, own: np.ndarray[Any, Any], add: Add) -> np.ndarray[Any, Any]:
        self._exchange_headers(own.nbytes, own.dtype.name)
        total = aligned(own.size, own.dtype)
        self._put(own[self._segment(self._index, own.size)])
        # Reduce-scatter: after the last step this worker has the sum of one segment.
        for step in range(self._workers - 1):
            for piece in self._pieces(self._index - step - 1, own):
                self._receive(total[piece])
                add(own[piece], total[piece])
                self._put(total[piece])
        # All-gather: the other sums arrive, and are sent on except for the last, which the next worker has.
        for step in range(self._workers - 1):
            for piece in self._pieces(self._index - step, own):
                self._receive(total[piece])
                if step < self._workers - 2:
                    self._put(total[piece])
        self._flush()  # TensorFlow may write into the result, and parts of it may still wait to be sent.
        return total

    def all_gather(self, own: bytes) -> list[bytes]:
        """Return every worker's bytes, in the order of the workers; their lengths may differ.

        Raises:
            LostError: A worker is lost.
            ValueError: The previous worker runs another collective.
        """
        with self._exchanging:
            return self._gather(own)

    def _gather(self, own: bytes) -> list[bytes]:
        self._exchange_headers(0, "bytes")
        parts = {self._index: own}
        for step in range(self._workers - 1):
            forwarded = parts[(self._index - step) % self._workers]
            self._put(np.array([len(forwarded)], np.int64))
            self._put(np.frombuffer(forwarded, np.uint8))
            length = np.zeros(1, np.int64)
            self._receive(length)
            part = np.empty(int(length[0]), np.uint8)
            self._receive(part)
            parts[(self._index - step - 1) % self._workers] = part.tobytes()
        self._flush()
        return [parts[worker] for worker in range(self._workers)]

    def abort(self, lost: LostError | None = None) -> None:
        """Close the connections, and send the previous worker a failure notice.

        Args:
            lost: The lost worker; by default this worker itself.
        """
        with self._closing:
            if self._lost is not None:
                return
            self._lost = lost or LostError(self._index, False, own=True)
        with contextlib.suppress(OSError):
            self._before.send(_NOTICE.pack(self._lost.worker, self._lost.frozen), socket.MSG_DONTWAIT)
        for end in (self._before, self._after):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sends.put(None)

    def close(self) -> None:
        """Leave the ring, and free the sockets."""
        self.abort()
        for end in (self._before, self._after):
            end.close()

    def _exchange_headers(self, size: int, what: str) -> None:
        """Send a header that describes the collective, so that mismatched workers detect it.

        Args:
            size: The number of bytes.
            what: Their dtype.
        """
        if self._lost is not None:
            raise self._lost
        self._serial += 1
        sent = _HEADER.pack(self._serial, size, what.encode())
        self._put(np.frombuffer(sent, np.uint8))
        header = np.empty(len(sent), np.uint8)
        self._receive(header)
        if header.tobytes() != sent:
            self._flush()  # The next worker needs this header to detect the mismatch too.
            fields = [
                field.rstrip(b"\0").decode() if isinstance(field, bytes) else field
                for field in _HEADER.unpack(header.tobytes())
            ]
            self.abort()
            raise ValueError(
                f"Expected worker {(self._index - 1) % self._workers} to exchange number {self._serial}, {size} bytes "
                f"of {what}, received number {fields[0]}, {fields[1]} bytes of {fields[2]}: the workers' steps differ. "
                "Start every worker with the same script, options and packages."
            )

    def _segment(self, number: int, size: int) -> slice:
        """Return the elements of a segment, by its number modulo the number of workers."""
        number %= self._workers
        return slice(size * number // self._workers, size * (number + 1) // self._workers)

    def _pieces(self, number: int, own: np.ndarray[Any, Any]) -> Iterator[slice]:
        """Yield the elements of a segment, divided into pieces."""
        segment = self._segment(number, own.size)
        step = PIECE // own.itemsize
        for start in range(segment.start, segment.stop, step):
            yield slice(start, min(start + step, segment.stop))

    def _put(self, array: np.ndarray[Any, Any]) -> None:
        """Queue an array to be sent. It must not be changed before `_flush` returns."""
        self._sends.put(array.view(np.uint8))

    def _flush(self) -> None:
        """Wait until all queued arrays have been passed to the socket."""
        done = threading.Event()
        self._sends.put(done)
        while not done.wait(_PATIENCE):
            self._poll_failures()
        if self._lost is not None:
            raise self._lost

    def _receive(self, into: np.ndarray[Any, Any]) -> None:
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
            view = view[count:]

    def _poll_failures(self) -> None:
        """Raise if a worker is lost. It is called after some time of waiting."""
        frozen = self._frozen()
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
            notice = self._after.recv(_NOTICE.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            notice = b""
        return _NOTICE.unpack(notice) if notice else ((self._index + 1) % self._workers, False)

    def _on_disconnect(self) -> NoReturn:
        """Raise after the previous worker closed its connection.

        It may have done so because another worker is lost. Then a notice travels backwards through the ring and reaches
        this worker from the next one; it gets the time for that.
        """
        until = time.monotonic() + 2 * _PATIENCE * self._workers
        notice = None
        while notice is None and self._lost is None and time.monotonic() < until:
            time.sleep(0.01)
            notice = self._read_failure_notice()
        self._fail(*(notice or ((self._index - 1) % self._workers, False)))

    def _fail(self, worker: int, frozen: bool = False) -> NoReturn:
        self.abort(LostError(worker, frozen))
        assert self._lost is not None
        raise self._lost


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


def aligned(size: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an uninitialized array of one dim whose memory TensorFlow can use without a copy.

    Args:
        size: The number of elements.
        dtype: Their dtype.
    """
    memory = np.empty(size * dtype.itemsize + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size * dtype.itemsize].view(dtype)
