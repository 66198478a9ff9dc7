"""Gradients as `tf.IndexedSlices`: which slices of the parts of a batch are summed, and which are concatenated.

The gradient of a lookup (`tf.gather`) is a `tf.IndexedSlices`: one slice of values for each index that was looked up.
An optimizer that squares or clips a gradient does so slice by slice. It therefore has to receive the same slices as on
one device, and where the indices of a gather come from decides how the slices of the parts of a batch are combined:

```text
kind       example                    slices                            combined over the parts
SHARED     Embedding(n)(arange(n))    the same number for any rows      values are summed, slice by slice
ROWS       Embedding(n)(tokens)       those of each row                 concatenated
DISTINCT   sparse inputs              one for each index that occurs    concatenated, then summed by index
```
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import add
from kparallel.compat.optimizers import own_optimizer

__all__: list[str] = []


class Kind(Enum):
    """How the slices that one gather gives in several parts of a batch are combined."""

    SHARED = "shared"
    ROWS = "rows"
    DISTINCT = "distinct"


@dataclass(frozen=True)
class MicrobatchSlices:
    """The slices of one weight in one stage.

    Args:
        parts: `[m]`: the slices of each microbatch, those of several gathers one after another.
        rows: `[m]`: the number of rows of each microbatch.
    """

    parts: tuple[tf.IndexedSlices, ...]
    rows: tuple[int, ...]

    def dense(self) -> tf.Tensor:
        """Return the sum of all slices as a dense tensor."""
        return tf.convert_to_tensor(add(list(self.parts)))


@dataclass(frozen=True)
class SlicedGradient:
    """The slices of one variable by their kind: of one replica's share, or summed over the replicas.

    Args:
        shared: `[gather]`: slices with the same indices in every part.
        distinct: `[gather]`: slices in which no index occurs twice.
        rows: The slices of all other gathers and microbatches; they are only ever concatenated.
    """

    shared: tuple[tf.IndexedSlices, ...] = ()
    distinct: tuple[tf.IndexedSlices, ...] = ()
    rows: tuple[tf.IndexedSlices, ...] = ()

    def pieces(self) -> list[Any]:
        """Return what is all-reduced: tensors are summed over the replicas, slices are concatenated."""
        # Of a SHARED gather the values suffice, since every replica has the same indices.
        return [
            *(slices.values for slices in self.shared),
            *self.distinct,
            *([add(list(self.rows))] if self.rows else []),
        ]

    def from_pieces(self, sums: Iterator[Any]) -> "SlicedGradient":
        """Return the gradient of all replicas.

        Args:
            sums: The sum of each of `pieces`, in their order.
        """
        return SlicedGradient(
            tuple(_with_values(slices, next(sums)) for slices in self.shared),
            # The same index may come from several replicas. One device would have given one slice for it.
            tuple(_summed_by_index(next(sums)) for _ in self.distinct),
            tuple(next(sums) for _ in self.rows[:1]),  # `pieces` has joined them to one.
        )

    def zeroed(self) -> "SlicedGradient":
        """Return the same slices with values of zero."""
        return SlicedGradient(
            *(tuple(_with_values(slices, tf.zeros_like(slices.values)) for slices in kind) for kind in self._kinds())
        )

    def whole(self) -> tf.IndexedSlices:
        """Return the slices of all kinds as one `tf.IndexedSlices`."""
        return add([slices for kind in self._kinds() for slices in kind])

    def _kinds(self) -> tuple[tuple[tf.IndexedSlices, ...], ...]:
        return self.shared, self.distinct, self.rows


def accumulated(first: Any, second: Any) -> Any:
    """Add two parts of a weight's gradient: None, tensors or `MicrobatchSlices`."""
    if first is None or second is None:
        return second if first is None else first
    # The slices are kept by microbatch until their kind is known.
    if isinstance(first, MicrobatchSlices) and isinstance(second, MicrobatchSlices):
        return MicrobatchSlices(first.parts + second.parts, first.rows + second.rows)
    # A weight that is looked up and multiplied has a dense gradient on one device too.
    return tf.add_n([part.dense() if isinstance(part, MicrobatchSlices) else part for part in (first, second)])


def unsorted(slices: MicrobatchSlices) -> SlicedGradient:
    """Return slices to be concatenated: exact for a batch of one part, and for an optimizer that scales and adds."""
    return SlicedGradient(rows=slices.parts)


def by_kind(slices: MicrobatchSlices, kinds: Sequence[Kind], sizes: Sequence[Sequence[Any]]) -> SlicedGradient:
    """Sort slices by their kind, and combine those of the microbatches.

    ```text
    slices.parts    m = 0:  [ gather 0 | gather 1 ]         m = 1:  [ gather 0 | gather 1 ]
    divided         [m][gather]        ─ transposed ─►      [gather][m]
    ```

    Args:
        slices: The slices of each microbatch.
        kinds: `[gather]`.
        sizes: `[m][gather]`: the number of slices. In each microbatch one may be -1, as in `tf.split`.
    """
    gathers = [_divided(part, size) for part, size in zip(slices.parts, sizes, strict=True)]
    shared: list[tf.IndexedSlices] = []
    distinct: list[tf.IndexedSlices] = []
    rows: list[tf.IndexedSlices] = []
    for kind, parts in zip(kinds, zip(*gathers, strict=True), strict=True):
        if kind is Kind.SHARED:
            # All microbatches have the same indices, so the first one's are kept.
            shared.append(_with_values(parts[0], tf.add_n([part.values for part in parts])))
        elif kind is Kind.DISTINCT:
            distinct.append(add(list(parts)))  # Summed by index once, after the all-reduce.
        else:
            rows += parts
    return SlicedGradient(tuple(shared), tuple(distinct), tuple(rows))


def joined(gradients: Sequence[SlicedGradient]) -> SlicedGradient:
    """Return the slices of one variable from several stages. Each gather of each stage stays a gather of its own."""
    shared, distinct, rows = (
        tuple(slices for gradient in gradients for slices in gradient._kinds()[index]) for index in range(3)
    )
    return SlicedGradient(shared, distinct, rows)


def scales_and_adds(optimizer: Any) -> bool:
    """Return whether an optimizer is linear in the gradient, so that slices of one index may be summed beforehand."""
    # Momentum is linear too. Clipping is not: it looks at the norm of the slices.
    inner = own_optimizer(optimizer)
    clips = any(getattr(inner, name, None) is not None for name in ("clipnorm", "global_clipnorm", "clipvalue"))
    return type(inner) is keras.optimizers.SGD and not clips


def _with_values(slices: tf.IndexedSlices, values: tf.Tensor) -> tf.IndexedSlices:
    return tf.IndexedSlices(values, slices.indices, slices.dense_shape)


def _divided(slices: tf.IndexedSlices, sizes: Sequence[Any]) -> list[tf.IndexedSlices]:
    if len(sizes) == 1:
        return [slices]
    values, indices = (tf.split(pair, list(sizes), axis=0) for pair in (slices.values, slices.indices))
    return [tf.IndexedSlices(*pair, slices.dense_shape) for pair in zip(values, indices, strict=True)]


def _summed_by_index(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Sum the values of equal indices."""
    indices, segments = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, segments, tf.size(indices))
    return tf.IndexedSlices(values, indices, slices.dense_shape)
