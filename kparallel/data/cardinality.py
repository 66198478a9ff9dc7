"""How many batches data give, as far as that is known before they are read."""

import math
from typing import Any

import keras
import tensorflow as tf

from kparallel.data.shards import Shards

__all__: list[str] = []


def length_of(x: Any, batch_size: int | None) -> float | None:
    """Return how many batches data have, infinity for endless ones, or None where only their end will tell.

    Args:
        x: As `fit`, `evaluate` and `predict` take it.
        batch_size: Rows of a batch of arrays; default 32, as in Keras.
    """
    if isinstance(x, Shards):
        return None
    if isinstance(x, tf.distribute.DistributedDataset):  # Each worker's part may have another length.
        return math.inf if getattr(x, "cardinality", None) == tf.data.INFINITE_CARDINALITY else None
    if isinstance(x, tf.data.Dataset):
        size = int(x.cardinality())
        return {tf.data.INFINITE_CARDINALITY: math.inf, tf.data.UNKNOWN_CARDINALITY: None}.get(size, size)
    if isinstance(x, keras.utils.PyDataset):
        return None if x.num_batches is None else int(x.num_batches)
    rows = _rows(x)
    return None if rows is None else _in_batches(rows, batch_size)


def training_length(given: dict[str, Any]) -> float | None:
    """Return the length of the data that `fit` trains on, from its arguments."""
    x, split = given["x"], given["validation_split"]
    rows = _rows(x) if split else None
    if rows is None:
        return length_of(x, given["batch_size"])
    return _in_batches(int(rows * (1 - split)), given["batch_size"])


def validation_length(given: dict[str, Any]) -> float | None:
    """Return the length of `validation_data`, from the arguments of `fit`; 0 without."""
    data = given["validation_data"]
    if data is None:
        return 0
    x = data[0] if isinstance(data, tuple | list) else data
    return length_of(x, given["validation_batch_size"] or given["batch_size"])


def steps_of(given: dict[str, Any]) -> int | None:
    """Return the steps of an epoch, from the arguments of `fit`, or None."""
    if given["steps_per_epoch"] is not None:
        return int(given["steps_per_epoch"])
    length = training_length(given)
    return None if length is None or math.isinf(length) else int(length)


def _rows(x: Any) -> int | None:
    leaf = next((leaf for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")), None)
    return None if leaf is None else int(leaf.shape[0])


def _in_batches(rows: int, batch_size: int | None) -> int:
    return -(-rows // (batch_size or 32))
