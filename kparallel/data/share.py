"""The share of a batch: the rows of one replica, and their division into microbatches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.errors import DataError

__all__: list[str] = []


@dataclass(frozen=True)
class Share:
    """The rows of one replica, or of one of its microbatches.

    Args:
        x, y, sample_weight: The parts of the batch, as Keras unpacks them. An empty share may have one padding row.
        count: The number of rows, without a padding row.
        whole: The number of rows of the whole batch, or None if this replica does not know it.
        first: The index of the first row in the whole batch, or None if this replica does not know it.
    """

    x: Any
    y: Any
    sample_weight: Any
    count: int
    whole: int | None
    first: int | None = None


@dataclass(frozen=True)
class RowCounts:
    """The number of rows of a step's data. It is known when the step is traced, so no microbatch is ever empty.

    Args:
        rows: The number of rows of the whole batch; or that of each local replica, if the batch is divided already.
    """

    rows: int | tuple[int, ...]


def rows_at(data: Any, indices: Sequence[int]) -> Any:
    """Return some rows of a batch, in the order of their indices."""

    def taken(leaf: Any) -> Any:
        # A sparse tensor cannot be indexed by a list of rows.
        if isinstance(leaf, tf.SparseTensor):
            return tf.sparse.concat(0, [slice_rows(leaf, index, 1) for index in indices])
        return leaf if leaf is None or not leaf.shape.rank else tf.gather(leaf, indices)

    return keras.tree.map_structure(taken, data)


def row_count(data: Any) -> int:
    """Return the number of rows of a batch, or of one replica's share of it.

    Raises:
        DataError: The batch's first leaf has no rows.
    """
    first = next((leaf for leaf in keras.tree.flatten(data) if leaf is not None), None)
    if first is None or len(first.shape) == 0:
        raise DataError("Expected a batch of tensors whose first dim is the rows, received none. Batch the dataset.")
    return int(first.nrows() if isinstance(first, tf.RaggedTensor) else first.shape[0])


def take_share(
    data: Any, counts: RowCounts, local_index: int, replica_index: int, replicas: int, *, pad: bool
) -> Share:
    """Return one replica's share of a batch.

    Args:
        data: An element of the dataset: x, (x,), (x, y) or (x, y, sample_weight).
        counts: Its number of rows.
        local_index: The replica's index in this process.
        replica_index: Its index among the replicas of all workers.
        replicas: The number of replicas of all workers.
        pad: Whether an empty share gets one padding row, because few layers accept an empty batch.
    """
    data, count, first = slice_share(data, counts, local_index, replica_index, replicas, pad=pad)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    return Share(x, y, sample_weight, count, counts.rows if isinstance(counts.rows, int) else None, first)


def slice_share(
    data: Any, counts: RowCounts, local_index: int, replica_index: int, replicas: int, *, pad: bool
) -> tuple[Any, int, int | None]:
    """Take one replica's share of a batch as the dataset yields it, with the arguments of `take_share`.

    Returns:
        The share, its true number of rows, and the index of the first in the whole batch, None where it is not known.
    """
    # rows: 7                 one batch, which the replicas divide: 3, 2, 2
    # rows: (3, 0)            parts that came divided: one for each replica of this process
    # In the second case no replica knows the whole batch, nor where its part begins.
    if isinstance(counts.rows, tuple):
        count = counts.rows[local_index]
        return keras.tree.map_structure(_row_of_zeros, data) if count == 0 and pad else data, count, None
    sizes = split_sizes(counts.rows, replicas)
    count, first = sizes[replica_index], sum(sizes[:replica_index])
    # The padding row is the batch's first row, whose values every layer accepts. `count` stays 0, and all terms are
    # weighed by it.
    if count == 0 and pad:
        data = slice_rows(data, 0, 1)
    elif replicas > 1:
        data = slice_rows(data, first, count)
    return data, count, first


def split_sizes(count: int, parts: int) -> list[int]:
    """Split a row count as evenly as possible; earlier parts get the extra rows.

    Example:
        >>> split_sizes(7, 3)
        [3, 2, 2]
        >>> split_sizes(2, 3)
        [1, 1, 0]
    """
    # The sum over all parts is `count`: the remainder is the number of parts that have one row more.
    return [count // parts + (index < count % parts) for index in range(parts)]


def microbatches(share: Share, number: int) -> list[Share]:
    """Split a share into microbatches. Empty ones are left out; an empty share is one microbatch."""
    # With a count of 0 there may be a padding row, which must not be cut off.
    if number == 1 or share.count <= 1:
        return [share]
    parts, start = [], 0
    for size in split_sizes(share.count, number):
        if size:
            cut = [slice_rows(part, start, size) for part in (share.x, share.y, share.sample_weight)]
            first = None if share.first is None else share.first + start
            parts.append(Share(cut[0], cut[1], cut[2], size, share.whole, first))
        start += size
    return parts


def slice_rows(structure: Any, start: int, size: int) -> Any:
    """Return some rows of a batch of tensors of any kind: `size` rows from row `start` on."""

    def cut(leaf: Any) -> Any:
        if leaf is None:
            return None
        if isinstance(leaf, tf.SparseTensor):
            # All of every dim but the first.
            starts = [0] * (leaf.shape.rank - 1)
            return tf.sparse.slice(leaf, [start, *starts], tf.concat([[size], leaf.dense_shape[1:]], 0))
        return leaf[start : start + size]

    return keras.tree.map_structure(cut, structure)


def _row_of_zeros(value: Any) -> Any:
    if not isinstance(value, tf.Tensor) or not value.shape.rank:
        return value
    # A part that came divided and empty has no row that could be repeated.
    return tf.zeros(tf.concat([[1], tf.shape(value)[1:]], 0), value.dtype)
