"""How Keras reads arrays and datasets."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import convert_to_sliceable, train_validation_split
from keras.src.trainers.data_adapters.data_adapter import DataAdapter as DataAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import make_class_weight_map_fn

__all__: list[str] = []


def split_for_validation(arrays: Any, share: float) -> Any:
    """Split arrays into training and validation rows as Keras does."""
    return train_validation_split(arrays, share)


def are_arrays(*data: Any) -> bool:
    """Return whether Keras reads x, y and weights as arrays."""
    return data[0] is not None and bool(can_convert_arrays(data))


def rows_of_arrays(given: dict[str, Any]) -> tuple[Any, int, int]:
    """Return arrays as Keras's `fit` takes them: checked, in its float dtype, with class weights as weights of rows.

    Args:
        given: The arguments of `fit`.

    Returns:
        What Keras packs of x, y and weights, each leaf ready to be indexed by rows; the rows; the batch size.

    Raises:
        ValueError: Keras refuses the arrays, as for different numbers of rows.
    """
    names = ("x", "y", "sample_weight", "class_weight", "batch_size")
    # Keras's own adapter checks and converts, so that both accept the same.
    adapter = ArrayDataAdapter(**{name: given[name] for name in names}, steps=given["steps_per_epoch"])
    rows = keras.tree.flatten(adapter._inputs)[0].shape[0]
    return convert_to_sliceable(adapter._inputs), rows, adapter.batch_size


def chosen_rows(sliceable: Any, indices: Any) -> Any:
    """Return rows of a leaf of `rows_of_arrays`: a NumPy array, or a tensor where it is one."""
    if sliceable is None:
        return None
    rows = sliceable[indices]
    if hasattr(rows, "tocoo"):  # Of SciPy's sparse matrices.
        # rows     (row, column) of each entry, its value, and the shape
        coo = rows.tocoo()
        return tf.SparseTensor(np.stack([coo.row, coo.col], axis=1), coo.data, coo.shape)
    return rows if isinstance(rows, tf.Tensor | tf.RaggedTensor | tf.SparseTensor) else sliceable.convert_to_numpy(rows)


def shuffles_by_epoch() -> bool:
    """Tell whether the order of shuffled arrays follows from the epoch alone, as it does from Keras 3.16 on."""
    return hasattr(ArrayDataAdapter, "_tf_shuffle")


def class_weight_function(class_weight: dict[int, float]) -> Callable[..., Any]:
    """Return Keras's function that turns (x, y) into (x, y, weight of each row)."""
    function: Callable[..., Any] = make_class_weight_map_fn(class_weight)
    return function


def epoch_batches(epoch_iterator: Any) -> Any:
    """Return what Keras's epoch iterator reads."""
    return epoch_iterator._distributed_dataset
