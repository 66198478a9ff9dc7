"""A ring of workers over sockets: sums of arrays, apart or as one, and all-gather of bytes, without TensorFlow.

```text
    worker 0 ──► worker 1 ──► worker 2 ─┐
        ▲                               │
        └───────────────────────────────┘
```

To sum `n` elements over `W` workers each worker sends 2·(W−1)/W·n elements, which is the least possible (Patarasuk and
Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009).
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kparallel.comm.neighbors import Neighbors, RingPosition

__all__: list[str] = []

PIECE = 2**20  # Bytes that are received, added and sent on together, while they are in the processor's cache.
_ALIGNED = 64  # Bytes. TensorFlow uses memory of this alignment in place, and copies other memory.
_HEADER = struct.Struct("!QQ16s")  # Serial number of the collective, bytes, dtype.

Add = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], None]
Arrays = list[np.ndarray[Any, Any]]


def _add(summand: np.ndarray[Any, Any], total: np.ndarray[Any, Any]) -> None:
    np.add(summand, total, out=total)


class Ring:
    """The connections of one worker to its neighbors in the ring.

    Law: every worker makes the same calls in the same order. The results are equal on every worker, to the bit.

    Args:
        position: This worker's.
        after: A connection that the next worker has accepted.
        before: A connection from the previous worker.
    """

    def __init__(self, position: RingPosition, after: socket.socket, before: socket.socket) -> None:
        self._position = position
        self._exchanging = threading.Lock()
        self.generation = 0
        self._begin(after, before)

    def _begin(self, after: socket.socket, before: socket.socket) -> None:
        self._neighbors = Neighbors(self._position, after, before)
        # A generation has connections of its own, in which nothing of an earlier one is left. So the numbers begin
        # anew.
        self._serial = 0

    @property
    def worker(self) -> int:
        """The index of this worker."""
        return self._position.index

    @property
    def is_aborted(self) -> bool:
        """Whether this worker has left, or lost another."""
        return self._neighbors.lost is not None

    def abort(self) -> None:
        """Close the connections, and send the previous worker a failure notice."""
        self._neighbors.abort()

    def close(self) -> None:
        """Leave the ring, and free the sockets."""
        self._neighbors.close()

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
        workers = self._position.workers
        self._exchange_headers(own.nbytes, own.dtype.name)
        total = aligned(own.size, own.dtype)
        # Which segment a worker receives, with three workers. `+` is added to the worker's own rows of it and sent on;
        # `*` marks the sum over all workers.
        # worker              0     1     2
        # sends first         0     1     2
        # reduce-scatter 0    2+    0+    1+
        # reduce-scatter 1    1*    2*    0*
        # all-gather 0        0*    1*    2*      which the previous worker has completed
        # all-gather 1        2*    0*    1*
        # Segments differ by at most one element in length, and none is empty unless there are fewer elements than
        # workers.
        segments = [slice(own.size * n // workers, own.size * (n + 1) // workers) for n in range(workers)]
        self._reduce_scatter(own, total, segments, add)
        self._gather_segments(total, segments)
        self._neighbors.flush()  # TensorFlow may write into the result, and parts of it may still wait to be sent.
        return total

    def reduce_scatter(self, own: Sequence[Arrays], add: Add = _add) -> Arrays:
        """Sum arrays of one dim and one dtype, each for one worker: the first half of `all_reduce`.

        ```text
        worker               0          1          2           the arrays of each worker as a segment
        first step           2 ──►      0 ──►      1 ──►       each sends what is for the worker before it,
        next steps           1+ ──►     2+ ──►     0+ ──►      then adds to what it receives, and sends on
        last step            0*         1*         2*          until what is its own has come around
        ```

        Args:
            own: `[worker]`: this worker's summands of what a worker is to have, the same sizes on all workers.
            add: Adds its first argument to its second, in place.

        Returns:
            The sums of what this worker is to have.

        Raises:
            LostError: A worker is lost.
            ValueError: The previous worker runs another collective.
        """
        with self._exchanging:
            index, workers = self._position.index, self._position.workers
            self._exchange_headers(sum(each.nbytes for part in own for each in part), _dtype_of(own))
            for array in own[(index - 1) % workers]:
                self._neighbors.put(array)
            for step in range(workers - 1):
                summands = own[(index - step - 2) % workers]
                sums = [aligned(each.size, each.dtype) for each in summands]
                for summand, total in zip(summands, sums, strict=True):
                    for piece in _pieces(slice(0, total.size), total.itemsize):
                        self._neighbors.receive(total[piece])
                        add(summand[piece], total[piece])
                        if step < workers - 2:
                            self._neighbors.put(total[piece])
            self._neighbors.flush()
            return sums

    def all_gather_arrays(self, own: Arrays, sizes: Sequence[Sequence[int]], dtype: np.dtype[Any]) -> list[Arrays]:
        """Give each worker the arrays of all workers: the second half of `all_reduce`.

        Args:
            own: This worker's arrays of one dim.
            sizes: `[worker]`: the number of elements of each of a worker's arrays; the same on all workers.
            dtype: Of all arrays.

        Returns:
            `[worker]`: its arrays; this worker's are `own`.

        Raises:
            LostError: A worker is lost.
            ValueError: The previous worker runs another collective.
        """
        with self._exchanging:
            index, workers = self._position.index, self._position.workers
            self._exchange_headers(sum(map(sum, sizes)) * dtype.itemsize, dtype.name)
            result = {index: own}
            for array in own:
                self._neighbors.put(array)
            for step in range(workers - 1):
                worker = (index - step - 1) % workers
                result[worker] = [aligned(size, dtype) for size in sizes[worker]]
                for array in result[worker]:
                    for piece in _pieces(slice(0, array.size), array.itemsize):
                        self._neighbors.receive(array[piece])
                        if step < workers - 2:
                            self._neighbors.put(array[piece])
            self._neighbors.flush()
            return [result[worker] for worker in range(workers)]

    def _reduce_scatter(
        self, own: np.ndarray[Any, Any], total: np.ndarray[Any, Any], segments: Sequence[slice], add: Add
    ) -> None:
        """Fill one segment of `total`, the one after this worker's index, with the sum over the workers, and send it.

        Args:
            own: This worker's array.
            total: An array of the same size; the other segments are overwritten too.
            segments: As many as workers.
            add: Adds its first argument to its second, in place.
        """
        index, workers = self._position.index, self._position.workers
        self._neighbors.put(own[segments[index]])
        for step in range(workers - 1):
            for piece in _pieces(segments[(index - step - 1) % workers], own.itemsize):
                self._neighbors.receive(total[piece])
                add(own[piece], total[piece])
                self._neighbors.put(total[piece])

    def _gather_segments(self, total: np.ndarray[Any, Any], segments: Sequence[slice]) -> None:
        """Receive all segments but the one that this worker has sent last, and send on those that the next lacks."""
        index, workers = self._position.index, self._position.workers
        for step in range(workers - 1):
            for piece in _pieces(segments[(index - step) % workers], total.itemsize):
                self._neighbors.receive(total[piece])
                if step < workers - 2:
                    self._neighbors.put(total[piece])

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
        index, workers = self._position.index, self._position.workers
        parts = {index: own}
        for step in range(workers - 1):
            # In step s a worker sends on what it received in step s - 1, at first its own; each part is preceded by
            # its length.
            forwarded = parts[(index - step) % workers]
            self._neighbors.put(np.array([len(forwarded)], np.int64))
            self._neighbors.put(np.frombuffer(forwarded, np.uint8))
            length = np.zeros(1, np.int64)
            self._neighbors.receive(length)
            part = np.empty(int(length[0]), np.uint8)
            self._neighbors.receive(part)
            parts[(index - step - 1) % workers] = part.tobytes()
        self._neighbors.flush()
        return [parts[worker] for worker in range(workers)]

    def _exchange_headers(self, size: int, what: str) -> None:
        """Send a header that describes the collective, so that mismatched workers detect it.

        Args:
            size: The number of bytes.
            what: Their dtype.
        """
        if self._neighbors.lost is not None:
            raise self._neighbors.lost
        self._serial += 1
        sent = _HEADER.pack(self._serial, size, what.encode())
        self._neighbors.put(np.frombuffer(sent, np.uint8))
        header = np.empty(len(sent), np.uint8)
        self._neighbors.receive(header)
        if header.tobytes() != sent:
            self._neighbors.flush()  # The next worker needs this header to detect the mismatch too.
            fields = [
                field.rstrip(b"\0").decode() if isinstance(field, bytes) else field
                for field in _HEADER.unpack(header.tobytes())
            ]
            self.abort()
            raise ValueError(
                f"Expected worker {self._position.previous} to exchange number {self._serial}, {size} bytes "
                f"of {what}, received number {fields[0]}, {fields[1]} bytes of {fields[2]}: the workers' steps differ. "
                "Start every worker with the same script, options and packages."
            )


def _dtype_of(parts: Sequence[Arrays]) -> str:
    """Return the name of the dtype of all arrays."""
    return next((each.dtype.name for part in parts for each in part), "nothing")


def _pieces(segment: slice, itemsize: int) -> Iterator[slice]:
    """Yield the elements of a segment, divided into pieces."""
    step = PIECE // itemsize
    for start in range(segment.start, segment.stop, step):
        yield slice(start, min(start + step, segment.stop))


def aligned(size: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an uninitialized array of one dim whose memory TensorFlow can use without a copy.

    Args:
        size: The number of elements.
        dtype: Their dtype.
    """
    # As many bytes more as an alignment may have to skip.
    memory = np.empty(size * dtype.itemsize + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size * dtype.itemsize].view(dtype)
