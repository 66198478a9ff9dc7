"""The control plane between workers, outside the training step: gathered text, and values broadcast by the chief."""

import abc
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kparallel.comm.departures import Departures
from kparallel.comm.packs import sum_by_dtype
from kparallel.compat.distribute import CollectiveReducer
from kparallel.compat.functions import traced
from kparallel.errors import WorkerError

__all__: list[str] = []

# A message of up to this many bytes, with its length, takes one collective; a longer one takes two.
_FIRST = 1024
_LENGTH = 4  # Bytes of the length.


class WorkerGroup(abc.ABC):
    """The workers of a cluster, seen from one of them.

    Law: every worker makes the same calls in the same order. A call returns once all workers have made it.

    Args:
        workers: The number of workers.
        worker_index: This worker's index; 0 is the chief.
    """

    def __init__(self, workers: int, worker_index: int) -> None:
        self.workers = workers
        self.worker_index = worker_index

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the chief, which writes files."""
        return self.worker_index == 0

    @property
    def is_single(self) -> bool:
        """Whether this is the only worker."""
        return self.workers == 1

    def exchange(self, doing: str, value: Any) -> list[Any]:
        """Return every worker's value, in the order of the workers.

        Args:
            doing: What the workers do here, as words for a user: the same on all of them, and no other exchange's.
            value: What JSON can hold.

        Raises:
            WorkerError: Another worker does something else.
        """
        answers = [json.loads(text) for text in self.all_gather_text(json.dumps([doing, value]))]
        if any(other != doing for other, _ in answers):
            listed = "; ".join(f"worker {index} {other}" for index, (other, _) in enumerate(answers))
            raise WorkerError(
                f"Expected all workers to do the same, received: {listed}. They have to make the same calls in one "
                "order: where one worker alone catches an error, let it end that script, or let all go on alike."
            )
        return [value for _, value in answers]

    @abc.abstractmethod
    def all_gather_text(self, text: str) -> list[str]:
        """Return every worker's text, in the order of the workers."""

    @abc.abstractmethod
    def broadcast(self, values: list[Any], owners: Sequence[int] | None = None) -> list[tf.Tensor]:
        """Return the tensors of some workers. Every worker passes values of the same shapes and dtypes.

        Args:
            values: What this worker has; what an owner has is returned.
            owners: For each value the worker whose it is; by default the chief for all.
        """


class SingleWorker(WorkerGroup):
    """The group of a process that trains alone."""

    def __init__(self) -> None:
        super().__init__(1, 0)

    def all_gather_text(self, text: str) -> list[str]:
        return [text]

    def broadcast(self, values: list[Any], owners: Sequence[int] | None = None) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(value) for value in values]


class TFWorkerGroup(WorkerGroup):
    """A group over TensorFlow's collectives between the workers' host CPUs.

    Args:
        strategy: The cluster's strategy; it numbers the collectives.
        workers: The number of workers.
        worker_index: This worker's index.
        departures: Ends the wait for a worker whose script has ended; None where no launcher tells.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        workers: int,
        worker_index: int,
        departures: Departures | None = None,
    ) -> None:
        super().__init__(workers, worker_index)
        worker = strategy.extended.worker_devices[0].rsplit("/device:", 1)[0]
        ring = tf.distribute.experimental.CommunicationImplementation.RING
        options = tf.distribute.experimental.CommunicationOptions(implementation=ring)
        device = f"{worker}/device:CPU:0"
        reducer = CollectiveReducer([device], strategy, workers, options)

        def gather(words: tf.Tensor) -> tf.Tensor:
            with tf.device(device):
                return reducer.gather_equal(words, 0)

        def total(values: list[tf.Tensor]) -> list[tf.Tensor]:
            with tf.device(device):
                return sum_by_dtype(lambda packs: reducer.sum(packs, 0), values)

        signature = [tf.TensorSpec([1, None], tf.int32)]
        self._gather = traced(gather, input_signature=signature)
        self._sum = traced(total)
        self._waiting = contextlib.nullcontext if departures is None else departures.waiting

    def all_gather_text(self, text: str) -> list[str]:
        data = text.encode()
        # Every worker has to know how many bytes the others send. So the first collective has a fixed size and contains
        # the lengths; the second has the size of the longest rest.
        # message    [ length: 4 bytes | text, up to _FIRST - 4 bytes ][ rest ]
        #              first collective: 1 KB from each worker          second: if any worker has a rest
        message = len(data).to_bytes(_LENGTH, "big") + data
        parts = self._all_gather(message[:_FIRST], _FIRST)
        lengths = [int.from_bytes(part[:_LENGTH], "big") + _LENGTH for part in parts]
        if max(lengths) > _FIRST:
            rest = self._all_gather(message[_FIRST:], max(lengths) - _FIRST)
            parts = [first + second for first, second in zip(parts, rest, strict=True)]
        return [part[_LENGTH:length].decode() for part, length in zip(parts, lengths, strict=True)]

    def _all_gather(self, data: bytes, size: int) -> list[bytes]:
        """Return every worker's bytes, padded to the given size, which is the same on all workers."""
        # As int32, the dtype of the traced gather.
        # `ljust` fills up to whole words; the length in the message says where the text ends.
        words = np.frombuffer(data.ljust(-(-size // 4) * 4, b"\0"), np.int32)
        with self._waiting():
            return [row.tobytes() for row in self._gather(tf.constant(words[None])).numpy()]

    def broadcast(self, values: list[Any], owners: Sequence[int] | None = None) -> list[tf.Tensor]:
        if not values:
            return []
        tensors = [tf.convert_to_tensor(value) for value in values]
        # Integers of every kind, and booleans, as int64, in which a sum with zeros is exact.
        sent = [tensor if tensor.dtype.is_floating else tf.cast(tensor, tf.int64) for tensor in tensors]
        # A broadcast by a sum: all workers but the owner add zeros.
        roots = [0] * len(sent) if owners is None else owners
        own = [root == self.worker_index for root in roots]
        terms = [value if mine else tf.zeros_like(value) for value, mine in zip(sent, own, strict=True)]
        with self._waiting():
            return [tf.cast(new, old.dtype) for new, old in zip(self._sum(terms), tensors, strict=True)]
