"""What travels from stage to stage: tensors, with what Keras attaches to them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kparallel.compat.tensors import keras_logits, keras_mask, set_logits, set_mask

__all__: list[str] = []


class Value(NamedTuple):
    """A value of a model's graph. Keras keeps masks and logits as attributes, which a call of a function loses.

    Args:
        tensor: A tensor; of a model that is no graph, the structure that it takes or returns.
        mask: The mask that Keras's layers attached to each tensor, or None.
        logits: The logits that Keras's losses read in place of each tensor, or None.
    """

    tensor: Any
    mask: Any = None
    logits: Any = None

    @classmethod
    def of(cls, structure: Any) -> "Value":
        """Return the value of what a layer returned."""
        mask, logits = (keras.tree.map_structure(read, structure) for read in (keras_mask, keras_logits))
        return cls(structure, mask, logits)

    def copied(self) -> "Value":
        """Return the value on the present device, as tensors of the present action alone."""
        return Value(*map(copied, self))

    def attached(self) -> Any:
        """Return the tensors on the present device, with masks and logits attached, as Keras's losses take them."""
        structure = keras.tree.map_structure(_copied_with_mask, self.tensor)
        for attach, attribute in ((set_mask, self.mask), (set_logits, self.logits)):
            # None stands for a whole structure without, so the two may differ in length.
            for leaf, other in zip(keras.tree.flatten(structure), keras.tree.flatten(attribute), strict=False):
                if other is not None:
                    attach(leaf, copied(other))
        return structure


def differentiable_leaves(values: Sequence[Value]) -> list[Any]:
    """Return the leaves of which cotangents may come, None where one is missing: of all tensors, then of all logits."""
    leaves: list[Any] = keras.tree.flatten([[value.tensor for value in values], [value.logits for value in values]])
    return leaves


def is_differentiable(leaf: Any) -> bool:
    """Tell whether a leaf is a tensor of floats."""
    return leaf is not None and hasattr(leaf, "dtype") and tf.as_dtype(leaf.dtype).is_floating


def differentiable(structure: Any) -> list[Any]:
    """Return the floating leaves of a structure."""
    return [leaf for leaf in keras.tree.flatten(structure) if is_differentiable(leaf)]


def copied(structure: Any) -> Any:
    """Return the tensors on the present device, as tensors of the present action alone."""
    return keras.tree.map_structure(lambda v: tf.identity(v) if isinstance(v, tf.Tensor) else v, structure)


def _copied_with_mask(leaf: Any) -> Any:
    if not isinstance(leaf, tf.Tensor):
        return leaf
    copy = tf.identity(leaf)
    mask = keras_mask(leaf)
    if mask is not None:
        set_mask(copy, mask)
    return copy
