"""Short messages between workers, outside the training step: text, and values from the chief."""

from typing import Any

import tensorflow as tf

from kparallel.collective.packs import sum_by_dtype
from kparallel.private import CollectiveReducer

__all__: list[str] = []


class Talk:
    """What the workers of a cluster tell one another between steps.

    Law: every worker makes the same calls in the same order; a call returns when all workers have made it.

    Args:
        strategy: The cluster's strategy.
        workers: How many workers there are.
        worker_index: This worker's index; 0 is the chief.
    """

    def __init__(self, strategy: tf.distribute.Strategy, workers: int, worker_index: int) -> None:
        self.workers = workers
        self.worker_index = worker_index
        worker = strategy.extended.worker_devices[0].rsplit("/device:", 1)[0]
        ring = tf.distribute.experimental.CommunicationImplementation.RING
        options = tf.distribute.experimental.CommunicationOptions(implementation=ring)
        device = f"{worker}/device:CPU:0"
        reducer = CollectiveReducer([device], strategy, workers, options)

        def gather(codes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.device(device):
                own = tf.one_hot(worker_index, workers, tf.size(codes), 0, dtype=tf.int32)
                return reducer.gather(codes, 0), reducer.sum([[own]], 0)[0]

        def total(values: list[tf.Tensor]) -> list[tf.Tensor]:
            with tf.device(device):
                return sum_by_dtype(reducer, values, 0)

        signature = [tf.TensorSpec([None], tf.int32)]
        self._gather = tf.function(gather, input_signature=signature, autograph=False)
        self._sum = tf.function(total, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.worker_index == 0

    def gather(self, text: str) -> list[str]:
        """Return every worker's text, in the order of the workers."""
        # A last byte that counts nowhere: TensorFlow's collectives end the process on a tensor without elements.
        whole, sizes = self._gather(tf.constant([*text.encode(), 0], tf.int32))
        codes, result = whole.numpy().tolist(), []
        for size in sizes.numpy().tolist():
            result.append(bytes(codes[: size - 1]).decode())
            codes = codes[size:]
        return result

    def from_chief(self, values: list[Any]) -> list[tf.Tensor]:
        """Return the chief's tensors; each worker gives its own, of the same shapes and dtypes."""
        if not values:
            return []
        tensors = [tf.convert_to_tensor(value) for value in values]
        carried = [tensor if tensor.dtype.is_floating else tf.cast(tensor, tf.int64) for tensor in tensors]
        given = [value if self.is_chief else tf.zeros_like(value) for value in carried]
        return [tf.cast(new, old.dtype) for new, old in zip(self._sum(given), tensors, strict=True)]
