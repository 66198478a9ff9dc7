"""The values that travel from stage to stage: tensors with the mask and logits that Keras attaches to them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kparallel.compat.tensors import keras_logits, keras_mask, set_logits, set_mask

__all__: list[str] = []


class Value(NamedTuple):
    """A value of a model's graph.

    Keras keeps masks and logits as Python attributes of a tensor, which are lost at each call of a `tf.function`. As
    fields they pass through it.

    Args:
        tensor: A tensor. For a model that is not a graph, the structure of its inputs or outputs.
        mask: The mask that Keras's layers attached to each tensor, or None.
        logits: The logits that Keras's losses read in place of each tensor, or None.
    """

    tensor: Any
    mask: Any = None
    logits: Any = None

    @classmethod
    def of(cls, structure: Any) -> "Value":
        """Return the value that holds a layer's output."""
        mask, logits = (keras.tree.map_structure(read, structure) for read in (keras_mask, keras_logits))
        return cls(structure, mask, logits)

    def copied(self) -> "Value":
        """Return a copy on the current device. Its tensors belong to the current action only."""
        return Value(*map(copied, self))

    def attached(self) -> Any:
        """Return the tensors on the current device with masks and logits attached, as Keras's losses read them."""
        structure = keras.tree.map_structure(_copied_with_mask, self.tensor)
        for attach, attribute in ((set_mask, self.mask), (set_logits, self.logits)):
            # None may take the place of a whole structure, so the two lists may differ in length.
            for leaf, other in zip(keras.tree.flatten(structure), keras.tree.flatten(attribute), strict=False):
                if other is not None:
                    attach(leaf, copied(other))
        return structure


def differentiable_leaves(values: Sequence[Value]) -> list[Any]:
    """Return the leaves that may have a cotangent: those of all tensors, then those of all logits.

    ```text
    values   [(t0, logits l0), ((t1, t2), no logits)]   ─►   [t0, t1, t2, l0, None]
    ```
    """
    leaves: list[Any] = keras.tree.flatten([[value.tensor for value in values], [value.logits for value in values]])
    return leaves


def is_differentiable(leaf: Any) -> bool:
    """Return whether a leaf is a floating tensor."""
    return leaf is not None and hasattr(leaf, "dtype") and tf.as_dtype(leaf.dtype).is_floating


def differentiable(structure: Any) -> list[Any]:
    """Return the floating leaves of a structure."""
    return [leaf for leaf in keras.tree.flatten(structure) if is_differentiable(leaf)]


def copied(structure: Any) -> Any:
    """Return copies of tensors on the current device. They belong to the current action only."""
    # `tf.identity` is a new operation, so the control edges and the device of the current action apply to it.
    return keras.tree.map_structure(lambda v: tf.identity(v) if isinstance(v, tf.Tensor) else v, structure)


def _copied_with_mask(leaf: Any) -> Any:
    if not isinstance(leaf, tf.Tensor):
        return leaf
    copy = tf.identity(leaf)
    # The copy has none of the attributes of the tensor.
    mask = keras_mask(leaf)
    if mask is not None:
        set_mask(copy, mask)
    return copy
