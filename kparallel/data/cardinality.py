"""The number of batches of data, as far as it is known before they are read."""

import math
from typing import Any

import keras
import tensorflow as tf

from kparallel.data.shards import Shards

__all__: list[str] = []


def length_of(x: Any, batch_size: int | None) -> float | None:
    """Return the number of batches of data: infinity for endless data, None if it is unknown.

    Args:
        x: The data, as for `fit`, `evaluate` and `predict`.
        batch_size: The number of rows of a batch of arrays; None is 32, as in Keras.
    """
    if isinstance(x, Shards):
        return None
    if isinstance(x, tf.distribute.DistributedDataset):  # Each worker's part may have another length.
        return math.inf if getattr(x, "cardinality", None) == tf.data.INFINITE_CARDINALITY else None
    # TensorFlow has negative numbers for the two cases in which there is none.
    if isinstance(x, tf.data.Dataset):
        size = int(x.cardinality())
        return {tf.data.INFINITE_CARDINALITY: math.inf, tf.data.UNKNOWN_CARDINALITY: None}.get(size, size)
    if isinstance(x, keras.utils.PyDataset):
        return None if x.num_batches is None else int(x.num_batches)
    rows = _rows(x)
    return None if rows is None else _in_batches(rows, batch_size)


def training_length(arguments: dict[str, Any]) -> float | None:
    """Return the number of batches that `fit` trains on, from its arguments."""
    x, split = arguments["x"], arguments["validation_split"]
    rows = _rows(x) if split else None
    if rows is None:
        return length_of(x, arguments["batch_size"])
    # Keras cuts the validation rows off the end, after the same rounding.
    return _in_batches(int(rows * (1 - split)), arguments["batch_size"])


def validation_length(arguments: dict[str, Any]) -> float | None:
    """Return the number of batches of `validation_data`, from the arguments of `fit`; 0 without any."""
    data = arguments["validation_data"]
    if data is None:
        return 0
    x = data[0] if isinstance(data, tuple | list) else data
    return length_of(x, arguments["validation_batch_size"] or arguments["batch_size"])


def steps_of(arguments: dict[str, Any]) -> int | None:
    """Return the number of steps of an epoch, from the arguments of `fit`, or None if it is unknown."""
    if arguments["steps_per_epoch"] is not None:
        return int(arguments["steps_per_epoch"])
    length = training_length(arguments)
    return None if length is None or math.isinf(length) else int(length)


def _rows(x: Any) -> int | None:
    # All leaves have as many rows; Keras refuses others.
    leaf = next((leaf for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")), None)
    return None if leaf is None else int(leaf.shape[0])


def _in_batches(rows: int, batch_size: int | None) -> int:
    return -(-rows // (batch_size or 32))
