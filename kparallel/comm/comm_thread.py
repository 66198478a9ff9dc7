"""Carries arrays between workers behind the step, so that no thread of TensorFlow's waits for another worker."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kparallel.comm.ring import Add, Ring, aligned

__all__: list[str] = []

Arrays = list[np.ndarray[Any, Any]]
Work = Callable[[Ring, list[Arrays]], list[Arrays]]


class CommThread:
    """One thread that carries what the replicas of one column on this worker hand over, in that order.

    Law: each replica gives the same kinds of work in the same order as all replicas of the column on all workers.

    Args:
        ring: To the other workers.
        on_done: For each replica of this worker, what to call when its next work is done.
    """

    def __init__(self, ring: Ring, on_done: Sequence[Callable[[], None]]) -> None:
        self._ring = ring
        self._on_done = on_done
        self._submitted: list[queue.SimpleQueue[_Given | threading.Event | None]] = [
            queue.SimpleQueue() for _ in on_done
        ]
        self._counts = [0] * len(on_done)
        self._done: list[dict[int, Arrays | Exception]] = [{} for _ in on_done]
        threading.Thread(target=self._run, name="kparallel-comm_thread", daemon=True).start()

    def submit(self, replica: int, work: Work, arrays: Arrays) -> int:
        """Hand over a replica's arrays; return the number by which to take what becomes of them."""
        self._counts[replica] += 1
        self._submitted[replica].put(_Given(self._counts[replica], work, arrays, self._ring.generation))
        return self._counts[replica]

    def result(self, replica: int, number: int) -> Arrays:
        """Return what became of a replica's arrays, after it was woken.

        Raises:
            LostError: A worker is lost.
            ValueError: The workers exchange different things.
        """
        result = self._done[replica].pop(number)
        if isinstance(result, Exception):
            raise result
        return result

    def abort(self) -> None:
        """Hang up: the other workers then know that this one trains no longer."""
        self._ring.abort()

    def settle(self) -> None:
        """After a step that failed: wait until nothing of it is carried any more, and forget what became of it."""
        settled = threading.Event()
        for submitted in self._submitted:
            submitted.put(settled)
        settled.wait()

    @property
    def generation(self) -> int:
        """How often the ring has begun anew."""
        return self._ring.generation

    def stop(self) -> None:
        """End the thread; nothing is handed over any more."""
        for submitted in self._submitted:
            submitted.put(None)

    def _run(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Carry what all replicas hand over next; return whether there was something."""
        items = [submitted.get() for submitted in self._submitted]
        if None in items:
            return False
        if any(isinstance(item, threading.Event) for item in items):
            self._forget(items)
            return True
        works = [item for item in items if isinstance(item, _Given)]
        results: list[Arrays | Exception]
        try:
            if any(work.generation != self._ring.generation for work in works):
                raise ValueError("This is of a step that failed, before the workers connected anew.")
            results = list(works[0].work(self._ring, [work.arrays for work in works]))
        except Exception as error:  # The step raises it.
            results = [error] * len(works)
        for replica, (work, result) in enumerate(zip(works, results, strict=True)):
            self._done[replica][work.number] = result
            self._on_done[replica]()
        return True

    def _forget(self, items: list[Any]) -> None:
        """Drop what replicas handed over in a step that failed: one may have handed over more than another."""
        for submitted, item in zip(self._submitted, items, strict=True):
            while not isinstance(item, threading.Event):
                item = submitted.get()
        for done in self._done:
            done.clear()
        item.set()


@dataclass(frozen=True)
class _Given:
    """What a replica hands over, under which number, and in which generation of the ring."""

    number: int
    work: Work
    arrays: Arrays
    generation: int


def summing(add: Add) -> Work:
    """Return the work of summing one array of one dim from each replica."""

    def work(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
        own, *others = (array for (array,) in parts)
        if others:
            own = _copy(own)
            for other in others:
                add(other, own)
        total = ring.all_reduce(own, add)
        # A memory of its own for each replica, which may write into it.
        return [[total], *([_copy(total)] for _ in others)]

    return work


def gather(ring: Ring, parts: list[Arrays]) -> list[Arrays]:
    """Gather each replica's arrays, of which only the first dim may differ: for each, all replicas' in order."""
    counts = [np.array([array.shape[0] for array in arrays], np.int64) for arrays in parts]
    blobs = [np.ascontiguousarray(array).tobytes() for arrays in parts for array in arrays]
    own = b"".join([*(count.tobytes() for count in counts), *blobs])
    replicas: list[Arrays] = []
    for blob in ring.all_gather(own):
        replicas.extend(_read(blob, parts))
    whole = [array for of_one in zip(*replicas, strict=True) for array in of_one]
    return [whole, *([array.copy() for array in whole] for _ in parts[1:])]


def _read(blob: bytes, like: list[Arrays]) -> list[Arrays]:
    """Return the arrays that one worker's replicas packed into bytes."""
    each = len(like[0])
    counts = np.frombuffer(blob, np.int64, each * len(like)).reshape(len(like), each)
    place = counts.nbytes
    result = []
    for row in counts:
        arrays = []
        for count, array in zip(row, like[0], strict=True):
            shape = (int(count), *array.shape[1:])
            size = int(np.prod(shape)) * array.itemsize
            arrays.append(np.frombuffer(blob[place : place + size], array.dtype).reshape(shape))
            place += size
        result.append(arrays)
    return result


def _copy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result = aligned(array.size, array.dtype)
    result[:] = array
    return result
