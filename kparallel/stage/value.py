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


def unused_leaves(values: Sequence[Value], cotangents: Sequence[Any]) -> tuple[int, ...]:
    """Return the places in `differentiable_leaves` of floating tensors on which no loss depends.

    The output of a softmax or sigmoid is none of them where a loss reads its logits in its place: with a cotangent of
    zero it adds zero to their gradient, as its derivative is always finite.

    Args:
        values: Outputs of a stage.
        cotangents: One for each leaf, None where there is none.
    """
    leaves = differentiable_leaves(values)
    reads_logits = [False] * len(leaves)
    place, place_of_logits = 0, sum(len(keras.tree.flatten(value.tensor)) for value in values)
    for value in values:
        tensors, logits = len(keras.tree.flatten(value.tensor)), len(keras.tree.flatten(value.logits))
        if tensors == logits:
            sent = cotangents[place_of_logits : place_of_logits + logits]
            reads_logits[place : place + tensors] = [each is not None for each in sent]
        place, place_of_logits = place + tensors, place_of_logits + logits
    unused = [
        sent is None and is_differentiable(leaf) and not reads
        for leaf, sent, reads in zip(leaves, cotangents, reads_logits, strict=True)
    ]
    return tuple(place for place, is_unused in enumerate(unused) if is_unused)


def without_gradient(values: Sequence[Value], places: Sequence[int]) -> list[Value]:
    """Return values through some of whose `differentiable_leaves` no gradient passes."""
    structure = [[value.tensor for value in values], [value.logits for value in values]]
    leaves = [
        tf.stop_gradient(leaf) if place in places else leaf for place, leaf in enumerate(keras.tree.flatten(structure))
    ]
    tensors, logits = keras.tree.pack_sequence_as(structure, leaves)
    masks = [value.mask for value in values]
    return [Value(*each) for each in zip(tensors, masks, logits, strict=True)]


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
