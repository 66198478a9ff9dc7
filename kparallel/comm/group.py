"""Short messages between workers, outside the training step: text, and values from the chief."""

import contextlib
from typing import Any

import numpy as np
import tensorflow as tf

from kparallel.comm.departures import Departures
from kparallel.comm.packs import sum_by_dtype
from kparallel.compat.distribute import CollectiveReducer
from kparallel.compat.functions import traced

__all__: list[str] = []

# A message of up to so many bytes, its length included, takes one communicator, a longer one two.
_HEAD = 1024
_LENGTH = 4


class WorkerGroup:
    """What the workers of a cluster tell one another between steps.

    Law: every worker makes the same calls in the same order; a call returns when all workers have made it.

    Args:
        strategy: The cluster's strategy.
        workers: How many workers there are.
        worker_index: This worker's index; 0 is the chief.
        departures: Ends the wait for a worker whose script has ended; None where no launcher tells.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        workers: int,
        worker_index: int,
        departures: Departures | None = None,
    ) -> None:
        self.workers = workers
        self.worker_index = worker_index
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

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.worker_index == 0

    def all_gather_text(self, text: str) -> list[str]:
        """Return every worker's text, in the order of the workers."""
        data = text.encode()
        message = len(data).to_bytes(_LENGTH, "big") + data
        parts = self._equal(message[:_HEAD], _HEAD)
        lengths = [int.from_bytes(part[:_LENGTH], "big") + _LENGTH for part in parts]
        if max(lengths) > _HEAD:
            rest = self._equal(message[_HEAD:], max(lengths) - _HEAD)
            parts = [head + tail for head, tail in zip(parts, rest, strict=True)]
        return [part[_LENGTH:length].decode() for part, length in zip(parts, lengths, strict=True)]

    def _equal(self, data: bytes, size: int) -> list[bytes]:
        """Return every worker's bytes, filled up to a size that all know alike."""
        words = np.frombuffer(data.ljust(-(-size // 4) * 4, b"\0"), np.int32)
        with self._waiting():
            return [row.tobytes() for row in self._gather(tf.constant(words[None])).numpy()]

    def broadcast(self, values: list[Any]) -> list[tf.Tensor]:
        """Return the chief's tensors; each worker gives its own, of the same shapes and dtypes."""
        if not values:
            return []
        tensors = [tf.convert_to_tensor(value) for value in values]
        carried = [tensor if tensor.dtype.is_floating else tf.cast(tensor, tf.int64) for tensor in tensors]
        given = [value if self.is_chief else tf.zeros_like(value) for value in carried]
        with self._waiting():
            return [tf.cast(new, old.dtype) for new, old in zip(self._sum(given), tensors, strict=True)]
