"""A background thread that runs collectives between workers, so that no TensorFlow thread blocks on the network."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kparallel.comm.ring import Add, Arrays, Ring, aligned

__all__: list[str] = []

# It maps the arrays of all local replicas, `[replica][array]`, to their results.
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
        total = ring.all_reduce(_local_sum([array for (array,) in parts], add), add)
        # TensorFlow may write into the memory, so each replica gets memory of its own.
        return [[total], *([_copy(total)] for _ in parts[1:])]

    return work


def reducing(add: Add, numbers: Sequence[int]) -> Work:
    """Return the work that sums arrays of one dim over the replicas, each for one worker.

    A replica's arrays are first those that worker 0 is to have the sums of, then those of worker 1, and so on.

    Args:
        add: Adds its first argument to its second, in place.
        numbers: `[worker]`: how many of the arrays are for a worker.
    """
    ends = np.cumsum([0, *numbers]).tolist()

    def work(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
        local = [_local_sum(list(summands), add) for summands in zip(*parts, strict=True)]
        own = list(ring.reduce_scatter([local[a:b] for a, b in zip(ends, ends[1:], strict=False)], add))
        return [own, *([_copy(each) for each in own] for _ in parts[1:])]

    return work


def joining(sizes: Sequence[Sequence[int]], dtype: np.dtype[Any]) -> Work:
    """Return the work that gives each replica the arrays of all others, in the order of the replicas.

    Args:
        sizes: `[replica]`: the number of elements of each of the arrays that a replica gives, over all workers.
        dtype: Of all arrays.
    """

    def work(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
        local = len(parts)
        of_workers = [
            [size for given in sizes[first : first + local] for size in given] for first in range(0, len(sizes), local)
        ]
        found = ring.all_gather_arrays([array for given in parts for array in given], of_workers, dtype)
        givers = [giver for giver, given in enumerate(sizes) for _ in given]
        arrays = list(zip(givers, (array for of_one in found for array in of_one), strict=True))
        first = ring.worker * local
        return [
            [
                # TensorFlow may write into the memory, so each replica gets memory of its own.
                array if index == 0 and giver // local != ring.worker else _copy(array)
                for giver, array in arrays
                if giver != first + index
            ]
            for index in range(local)
        ]

    return work


def _local_sum(summands: Arrays, add: Add) -> np.ndarray[Any, Any]:
    """Sum arrays of this worker's replicas, so that the ring carries one array for each worker."""
    first, *others = summands
    if not others:
        return first
    local_sum = _copy(first)
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
