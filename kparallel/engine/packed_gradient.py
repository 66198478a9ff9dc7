"""A gradient as an argument of a function: its tensors, and what describes them."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

__all__: list[str] = []


class PackedGradient:
    """The tensors of a gradient, which may be a tensor, slices, or None.

    Slices have as many rows as the batch looked up; the function takes any number of them.

    Args:
        gradient: The gradient.
    """

    def __init__(self, gradient: Any) -> None:
        self.tensors: list[tf.Tensor] = []
        self.specs: list[tf.TensorSpec] = []
        self._whole: list[int] | None = None  # The shape of what slices are taken from, where the graph knows it.
        self._kind = "none" if gradient is None else "dense"
        if isinstance(gradient, tf.IndexedSlices):
            self._kind = "slices"
            self.tensors = [gradient.values, gradient.indices]
            self.specs = [tf.TensorSpec([None, *each.shape[1:]], each.dtype) for each in self.tensors]
            if gradient.dense_shape is not None:
                # A shape that the graph knows goes into the function as a constant, and into its key; any other is one
                # more argument.
                whole = tf.get_static_value(gradient.dense_shape)
                if whole is None:
                    self.tensors.append(gradient.dense_shape)
                    self.specs.append(tf.TensorSpec(gradient.dense_shape.shape, gradient.dense_shape.dtype))
                else:
                    self._whole = [int(size) for size in whole]
        elif gradient is not None:
            self.tensors = [gradient]
            self.specs = [tf.TensorSpec(gradient.shape, gradient.dtype)]

    @property
    def key(self) -> Any:
        """What distinguishes gradients of which a function can take only one kind."""
        specs = tuple((spec.dtype, None if spec.shape.rank is None else tuple(spec.shape)) for spec in self.specs)
        return self._kind, specs, None if self._whole is None else tuple(self._whole)

    def unpacked(self, tensors: Iterator[tf.Tensor]) -> Any:
        """Return the gradient made of a function's arguments, from which it takes its own."""
        taken = [next(tensors) for _ in self.specs]
        if self._kind == "none":
            return None
        if self._kind == "dense":
            return taken[0]
        values, indices, *whole = taken
        return tf.IndexedSlices(values, indices, tf.constant(self._whole) if self._whole else next(iter(whole), None))
