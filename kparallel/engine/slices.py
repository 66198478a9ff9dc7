"""Gradients that come as `tf.IndexedSlices` because an input is sparse."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.errors import DataError
from kparallel.private import own_optimizer

__all__: list[str] = []


def refuse_slices(x: Any, gradients: list[Any], optimizer: Any, parts: int) -> None:
    """Make sure that an optimizer may take the slices that parts of a batch give.

    A sparse input's gradient has one slice for each index of the batch. Parts of the batch give one each, and
    Keras's adaptive optimizers square slices one by one: sums of squares in place of squares of sums.

    Args:
        x: The inputs.
        gradients: Of the weights.
        optimizer: The compiled one.
        parts: Into how many shares and microbatches a batch is divided.

    Raises:
        DataError: The optimizer does more to a gradient than scaling and adding.
    """
    sparse = any(isinstance(leaf, tf.SparseTensor) for leaf in keras.tree.flatten(x))
    if not sparse or parts == 1 or not any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients):
        return
    if not scales_and_adds(optimizer):
        name = type(own_optimizer(optimizer)).__name__
        raise DataError(
            f"Expected dense inputs, or SGD without clipping, for a batch divided into {parts}: received sparse inputs "
            f"and {name}, which would see {parts} slices of an index where one device sees their sum. "
            "Make the inputs dense with dataset.map, or use one replica."
        )


def scales_and_adds(optimizer: Any) -> bool:
    """Tell whether an optimizer does no more to a gradient, so that slices of one index may be added beforehand."""
    own = own_optimizer(optimizer)
    clips = any(getattr(own, name, None) is not None for name in ("clipnorm", "global_clipnorm", "clipvalue"))
    return type(own) is keras.optimizers.SGD and not clips
