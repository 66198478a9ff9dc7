"""Gradients that come as `tf.IndexedSlices`: which slices of the parts of a batch add up, and which stay apart.

An optimizer that squares or clips a gradient does so slice by slice. So it has to get the very slices that one device
would show it, and where each comes from decides what happens to those of the parts:

```text
SHARED     Embedding(n)(arange(n))    as many whatever the rows: the values add up, slice by slice
ROWS       Embedding(n)(tokens)       those of each row: they stay apart
DISTINCT   sparse inputs              one for each index that occurs: those of one index add up
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
    """What becomes of the slices of one gather in several parts of a batch."""

    SHARED = "shared"
    ROWS = "rows"
    DISTINCT = "distinct"


@dataclass(frozen=True)
class MicrobatchSlices:
    """The slices of one weight in one stage.

    Args:
        parts: Each microbatch's.
        rows: How many rows each microbatch has.
    """

    parts: tuple[tf.IndexedSlices, ...]
    rows: tuple[int, ...]

    def dense(self) -> tf.Tensor:
        """Return their sum as a tensor."""
        return tf.convert_to_tensor(add(list(self.parts)))


@dataclass(frozen=True)
class SlicedGradient:
    """The slices of one variable by their kind, in one part of a batch, in one replica's, or in all.

    Args:
        shared: Of each gather whose indices are the same in every part.
        distinct: Of each gather whose indices do not occur twice.
        rows: Of all others.
    """

    shared: tuple[tf.IndexedSlices, ...] = ()
    distinct: tuple[tf.IndexedSlices, ...] = ()
    rows: tuple[tf.IndexedSlices, ...] = ()

    def travelling(self) -> list[Any]:
        """Return what is to be summed over the replicas: tensors, and slices that are to stay apart."""
        return [*(each.values for each in self.shared), *self.distinct, *([add(list(self.rows))] if self.rows else [])]

    def arrived(self, sums: Iterator[Any]) -> "SlicedGradient":
        """Return the gradient of all replicas.

        Args:
            sums: Gives the sum of each of `travelling`.
        """
        return SlicedGradient(
            tuple(_with_values(each, next(sums)) for each in self.shared),
            tuple(_summed_by_index(next(sums)) for _ in self.distinct),
            tuple(next(sums) for _ in self.rows[:1]),
        )

    def zeroed(self) -> "SlicedGradient":
        """Return slices of zeros."""
        return SlicedGradient(
            *(tuple(_with_values(each, tf.zeros_like(each.values)) for each in some) for some in self._kinds())
        )

    def whole(self) -> tf.IndexedSlices:
        """Return all slices as one gradient."""
        return add([each for some in self._kinds() for each in some])

    def _kinds(self) -> tuple[tuple[tf.IndexedSlices, ...], ...]:
        return self.shared, self.distinct, self.rows


def accumulated(first: Any, second: Any) -> Any:
    """Add two parts of a weight's gradient: None, tensors or `MicrobatchSlices`."""
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, MicrobatchSlices) and isinstance(second, MicrobatchSlices):
        return MicrobatchSlices(first.parts + second.parts, first.rows + second.rows)
    return tf.add_n([each.dense() if isinstance(each, MicrobatchSlices) else each for each in (first, second)])


def unsorted(slices: MicrobatchSlices) -> SlicedGradient:
    """Keep all slices apart: for a batch of one part, or an optimizer that scales and adds."""
    return SlicedGradient(rows=slices.parts)


def by_kind(slices: MicrobatchSlices, kinds: Sequence[Kind], sizes: Sequence[Sequence[Any]]) -> SlicedGradient:
    """Sort slices by their kind, and join the microbatches'.

    Args:
        slices: Each microbatch's.
        kinds: Of each gather.
        sizes: How many slices each gather gave in each microbatch, [microbatch][gather]; at most one may be -1.
    """
    gathers = [_divided(part, size) for part, size in zip(slices.parts, sizes, strict=True)]
    shared: list[tf.IndexedSlices] = []
    distinct: list[tf.IndexedSlices] = []
    rows: list[tf.IndexedSlices] = []
    for kind, parts in zip(kinds, zip(*gathers, strict=True), strict=True):
        if kind is Kind.SHARED:
            shared.append(_with_values(parts[0], tf.add_n([part.values for part in parts])))
        elif kind is Kind.DISTINCT:
            distinct.append(add(list(parts)))
        else:
            rows += parts
    return SlicedGradient(tuple(shared), tuple(distinct), tuple(rows))


def joined(gradients: Sequence[SlicedGradient]) -> SlicedGradient:
    """Return the slices that several stages gave of one variable: each gather of each stage is one of its own."""
    shared, distinct, rows = (
        tuple(each for gradient in gradients for each in gradient._kinds()[index]) for index in range(3)
    )
    return SlicedGradient(shared, distinct, rows)


def scales_and_adds(optimizer: Any) -> bool:
    """Tell whether an optimizer does no more to a gradient, so that slices of one index may be added beforehand."""
    own = own_optimizer(optimizer)
    clips = any(getattr(own, name, None) is not None for name in ("clipnorm", "global_clipnorm", "clipvalue"))
    return type(own) is keras.optimizers.SGD and not clips


def _with_values(slices: tf.IndexedSlices, values: tf.Tensor) -> tf.IndexedSlices:
    return tf.IndexedSlices(values, slices.indices, slices.dense_shape)


def _divided(slices: tf.IndexedSlices, sizes: Sequence[Any]) -> list[tf.IndexedSlices]:
    if len(sizes) == 1:
        return [slices]
    values, indices = (tf.split(each, list(sizes), axis=0) for each in (slices.values, slices.indices))
    return [tf.IndexedSlices(*each, slices.dense_shape) for each in zip(values, indices, strict=True)]


def _summed_by_index(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Add the values of equal indices."""
    indices, row_ranges = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, row_ranges, tf.size(indices))
    return tf.IndexedSlices(values, indices, slices.dense_shape)
