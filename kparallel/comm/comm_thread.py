"""A background thread that runs collectives between workers, so that no TensorFlow thread blocks on the network."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kparallel.comm.ring import Add, Ring, aligned

__all__: list[str] = []

# The arrays of one replica. A `Work` maps those of all local replicas, `[replica][array]`, to their results.
Arrays = list[np.ndarray[Any, Any]]
Work = Callable[[Ring, list[Arrays]], list[Arrays]]


class CommThread:
    """A thread that runs the collectives of one column, in the order in which this worker's replicas submit them.

    Law: each replica submits the same kinds of work in the same order as all replicas of the column on all workers.

    Args:
        ring: The connections to the other workers.
        on_done: `[replica]`: a function to call whenever a submission of this replica is done.
    """

    def __init__(self, ring: Ring, on_done: Sequence[Callable[[], None]]) -> None:
        self._ring = ring
        self._on_done = on_done
        # replica 0    submission 1   submission 2   submission 3
        # replica 1    submission 1   submission 2
        #                   └─ one collective of the ring, made when all replicas have submitted it
        self._submitted: list[queue.SimpleQueue[_Submission | threading.Event | None]] = [
            queue.SimpleQueue() for _ in on_done
        ]
        self._counts = [0] * len(on_done)
        # `[replica][number of the submission]`.
        self._done: list[dict[int, Arrays | Exception]] = [{} for _ in on_done]
        threading.Thread(target=self._run, name="kparallel-comm", daemon=True).start()

    def submit(self, replica: int, work: Work, arrays: Arrays) -> int:
        """Submit a replica's arrays without waiting.

        Returns:
            The number by which `result` finds the results.
        """
        self._counts[replica] += 1
        self._submitted[replica].put(_Submission(self._counts[replica], work, arrays, self._ring.generation))
        return self._counts[replica]

    def result(self, replica: int, number: int) -> Arrays:
        """Return the results of a submission. Call it after `on_done`.

        Raises:
            LostError: A worker is lost.
            ValueError: The workers run different collectives.
        """
        result = self._done[replica].pop(number)
        if isinstance(result, Exception):
            raise result
        return result

    def abort(self) -> None:
        """Close the connections, so that the other workers know that this one no longer trains."""
        self._ring.abort()

    def settle(self) -> None:
        """After a failed step: wait until none of its work runs any more, and drop its results."""
        settled = threading.Event()
        for submitted in self._submitted:
            # One event in every queue: what each queue holds before it is of the failed step.
            submitted.put(settled)
        settled.wait()

    @property
    def generation(self) -> int:
        """How often the ring has begun anew."""
        return self._ring.generation

    def stop(self) -> None:
        """End the thread. Nothing may be submitted afterwards."""
        for submitted in self._submitted:
            submitted.put(None)

    def _run(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Run the next work of all replicas; return False once the thread is stopped."""
        # One submission of each replica makes one collective.
        items = [submitted.get() for submitted in self._submitted]
        if None in items:
            return False
        if any(isinstance(item, threading.Event) for item in items):
            self._forget(items)
            return True
        works = [item for item in items if isinstance(item, _Submission)]
        results: list[Arrays | Exception]
        try:
            # Submitted before the workers connected anew, and taken from its queue only now: on the new connections no
            # other worker has a counterpart for it.
            if any(work.generation != self._ring.generation for work in works):
                raise ValueError("The step failed before the workers connected anew; its work is not run any more.")
            results = list(works[0].work(self._ring, [work.arrays for work in works]))
        except Exception as error:  # `result` raises it in the step.
            results = [error] * len(works)
        for replica, (work, result) in enumerate(zip(works, results, strict=True)):
            self._done[replica][work.number] = result
            self._on_done[replica]()
        return True

    def _forget(self, items: list[Any]) -> None:
        """Drop what replicas submitted in a step that failed: one may have submitted more than another."""
        for submitted, item in zip(self._submitted, items, strict=True):
            while not isinstance(item, threading.Event):
                item = submitted.get()
        for done in self._done:
            done.clear()
        item.set()


@dataclass(frozen=True)
class _Submission:
    """What a replica submits, under which number, and in which generation of the ring."""

    number: int
    work: Work
    arrays: Arrays
    generation: int


def summing(add: Add) -> Work:
    """Return the work that sums one array of one dim from each replica."""

    def work(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
        total = ring.all_reduce(_local_sum(parts, add), add)
        # TensorFlow may write into the memory, so each replica gets memory of its own.
        return [[total], *([_copy(total)] for _ in parts[1:])]

    return work


def reducing(add: Add, counts: Sequence[int]) -> Work:
    """Return the work that sums one array of one dim from each replica, each element for one worker.

    Args:
        add: Adds its first argument to its second, in place.
        counts: As `Ring.reduce_scatter` takes them.
    """

    def work(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
        own = ring.reduce_scatter(_local_sum(parts, add), counts, add)
        return [[own], *([_copy(own)] for _ in parts[1:])]

    return work


def joining(counts: Sequence[int]) -> Work:
    """Return the work that joins one array of one dim from each replica, in the order of the replicas.

    Args:
        counts: The number of elements of each worker's replicas together.
    """

    def work(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
        arrays = [array for (array,) in parts]
        total = ring.all_gather_parts(np.concatenate(arrays) if len(arrays) > 1 else arrays[0], counts)
        return [[total], *([_copy(total)] for _ in parts[1:])]

    return work


def _local_sum(parts: list[Arrays], add: Add) -> np.ndarray[Any, Any]:
    """Sum the arrays of this worker's replicas, so that the ring carries one array for each worker."""
    local_sum, *others = (array for (array,) in parts)
    if others:
        local_sum = _copy(local_sum)
        for other in others:
            add(other, local_sum)
    return local_sum


def gather(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
    """Gather the arrays of all replicas, whose first dims may differ.

    ```text
    bytes of one worker    [ first dims: replica 0, replica 1, ... | replica 0: arrays | replica 1: arrays | ... ]
    result of a replica    [ array 0 of all replicas | array 1 of all replicas | ... ]
    ```
    """
    # Only the first dims differ between replicas. Dtypes and the other dims are this worker's own.
    counts = [np.array([array.shape[0] for array in arrays], np.int64) for arrays in parts]
    blobs = [np.ascontiguousarray(array).tobytes() for arrays in parts for array in arrays]
    packed = b"".join([*(count.tobytes() for count in counts), *blobs])
    replicas: list[Arrays] = []
    for blob in ring.all_gather(packed):
        replicas.extend(_read(blob, parts))
    # `replicas[replica][array]` becomes `[array][replica]`, flat.
    gathered = [array for of_one in zip(*replicas, strict=True) for array in of_one]
    return [gathered, *([array.copy() for array in gathered] for _ in parts[1:])]


def _read(blob: bytes, like: list[Arrays]) -> list[Arrays]:
    """Return the arrays in one worker's bytes, `[replica][array]`.

    Args:
        blob: The bytes.
        like: This worker's arrays, whose dtypes and inner dims all replicas have.
    """
    # `counts[replica][array]`.
    per_replica = len(like[0])
    counts = np.frombuffer(blob, np.int64, per_replica * len(like)).reshape(len(like), per_replica)
    offset = counts.nbytes
    result = []
    for row in counts:
        arrays = []
        for count, array in zip(row, like[0], strict=True):
            shape = (int(count), *array.shape[1:])
            size = int(np.prod(shape)) * array.itemsize
            arrays.append(np.frombuffer(blob[offset : offset + size], array.dtype).reshape(shape))
            offset += size
        result.append(arrays)
    return result


def _copy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result = aligned(array.size, array.dtype)
    result[:] = array
    return result
