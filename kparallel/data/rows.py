"""The rows of one replica's share of a batch."""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

__all__: list[str] = []


@dataclass(frozen=True)
class Rows:
    """One replica's share of a batch.

    Args:
        x, y, sample_weight: As Keras unpacks them; one row of zeros where the share is empty.
        count: Scalar int32, the true number of rows, perhaps 0.
        certain: Whether the share is known to have rows when the step is traced.
    """

    x: Any
    y: Any
    sample_weight: Any
    count: tf.Tensor
    certain: bool


def take_rows(data: Any, *, pad: bool) -> Rows:
    """Unpack a replica's share of a batch.

    Args:
        data: What the dataset yields: x, (x,), (x, y) or (x, y, sample_weight).
        pad: Whether an empty share gets one row of zeros, because few layers stand an empty batch.

    Returns:
        The rows.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    first = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
    static = first.shape[0] if first.shape.rank else None
    count = tf.shape(first)[0] if not isinstance(first, tf.RaggedTensor) else tf.cast(first.nrows(), tf.int32)
    if static is None and pad:
        extra = tf.maximum(1 - count, 0)
        x, y, sample_weight = keras.tree.map_structure(lambda leaf: _pad(leaf, extra), (x, y, sample_weight))
    return Rows(x, y, sample_weight, count, certain=bool(static))


def _pad(value: Any, extra: tf.Tensor) -> Any:
    if not isinstance(value, tf.Tensor) or not value.shape.rank:
        return value
    return tf.concat([value, tf.zeros(tf.concat([[extra], tf.shape(value)[1:]], 0), value.dtype)], 0)


def share(value: Any, index: int, replicas: int) -> Any:
    """Return replica `index`'s rows of a whole batch: even shares, the first replicas taking one more."""

    def cut(leaf: Any) -> Any:
        if leaf is None:
            return None
        leaf = leaf if tf.is_tensor(leaf) else tf.convert_to_tensor(leaf)
        size = -(-int(leaf.shape[0]) // replicas)
        return leaf[index * size : (index + 1) * size]

    return keras.tree.map_structure(cut, value)
