"""What a worker has read, as one number: for comparing workers, and a training with the one that it resumes."""

import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__: list[str] = []

_LIMIT = 2**16  # Bytes of each target that enter the digest in a step, so that reading stays fast.


class BatchDigest:
    """A digest of the batches that a worker has read since `fit` or `evaluate` began.

    It covers the targets, or the inputs if there are no targets: inputs may differ by a random augmentation.
    """

    def __init__(self) -> None:
        self._digest = 0

    def begin(self) -> None:
        """Start a new digest."""
        self._digest = 0

    def add(self, batch: Any) -> None:
        """Add a batch."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        for leaf in keras.tree.flatten(x if y is None else y):
            if isinstance(leaf, tf.Tensor | np.ndarray):
                self._digest = zlib.crc32(_head(np.asarray(leaf)), self._digest)

    def __str__(self) -> str:
        return f"{self._digest:08x}"


def _head(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype == object:
        return str(array.tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1)[: _LIMIT // array.itemsize].tobytes()
