"""How many batches data give, as far as that is known before they are read."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.data.shards import Shards

__all__: list[str] = []


def batches_of(x: Any, steps: int | None, batch_size: int | None) -> int | None:
    """Return how many batches a pass over data has, or None where only the data's end will tell.

    Args:
        x: As `fit`, `evaluate` and `predict` take it.
        steps: How many were asked for, or None.
        batch_size: Rows of a batch of arrays; default 32, as in Keras.
    """
    if steps is not None:
        return int(steps)
    if isinstance(x, Shards | tf.distribute.DistributedDataset):
        return None
    if isinstance(x, tf.data.Dataset):
        size = int(x.cardinality())
        return size if size >= 0 else None
    if isinstance(x, keras.utils.PyDataset):
        return None if x.num_batches is None else int(x.num_batches)
    rows = _rows(x)
    return None if rows is None else -(-rows // (batch_size or 32))


def steps_of(given: dict[str, Any]) -> int | None:
    """Return the steps of an epoch, from the arguments of `fit`, or None."""
    x, split = given["x"], given["validation_split"]
    if split and (rows := _rows(x)) is not None and given["steps_per_epoch"] is None:
        return -(-int(rows * (1 - split)) // (given["batch_size"] or 32))
    return batches_of(x, given["steps_per_epoch"], given["batch_size"])


def validation_steps_of(given: dict[str, Any]) -> int | None:
    """Return how many batches of `validation_data` an epoch ends with, from the arguments of `fit`, or None."""
    data = given["validation_data"]
    if data is None:
        return 0
    x = data[0] if isinstance(data, tuple | list) else data
    return batches_of(x, given["validation_steps"], given["validation_batch_size"] or given["batch_size"])


def _rows(x: Any) -> int | None:
    leaf = next((leaf for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")), None)
    return None if leaf is None else int(leaf.shape[0])
