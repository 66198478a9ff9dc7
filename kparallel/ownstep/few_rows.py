"""Which rows of a batch are compared whole and in parts: few of them, but such as tell the two apart.

```text
rows of a batch, by how much is missing in them     0 0 0 0 0 1 1 2 2     zeros of a mask, padding, the first class
chosen for two parts                                0 0 0           2 2
```

Parts of one size and content hide differences. The larger half of the losses is the largest of each of two rows, and a
mean over what a mask keeps is a mean over the rows where each row keeps as much. So parts differ in both.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.data.share import row_count

__all__: list[str] = []

_ROWS = 2  # For each part: of one row a mean and a sum are the same.


def telling(batch: Any, parts: int) -> list[int]:
    """Return which rows of a batch to compare, for one part after another; none if it has fewer than two.

    Two for each part and one more, so that they do not divide. A batch of fewer rows is taken but for one that would
    make its parts even.
    """
    rows = row_count(batch)
    if rows <= parts:
        return list(range(rows)) if rows > 1 else []
    number = min(rows, _ROWS * parts + 1)
    # An uneven division: parts of one size hide a mean of means.
    number -= number % parts == 0
    order = np.argsort(_missing(batch, rows), kind="stable")
    # From both ends of the order, so that the first part has the rows with least missing and the last those with most.
    return [*map(int, order[: number - number // 2]), *map(int, order[rows - number // 2 :])]


def overlapping(rows: int, parts: int) -> list[int]:
    """Return which rows of a batch to compare, so that parts look up the same indices, as `telling` does.

    Parts have a row in common with the next: `[0, 1], [1, 2]` for two of them. A batch of fewer rows is taken as it is.
    """
    if rows <= parts:
        return list(range(rows)) if rows > 1 else []
    return [part + index for part in range(parts) for index in range(_ROWS)]


def _missing(batch: Any, rows: int) -> Any:
    """Return, for each row, how many of its entries are the smallest of their tensor: relative to other rows."""
    found = np.zeros(rows)
    for leaf in _numbers(keras.tree.flatten(batch), rows):
        smallest = tf.equal(leaf, tf.reduce_min(leaf))
        counts = np.sum(np.reshape(smallest.numpy(), [rows, -1]), axis=1)
        # Each tensor counts as much as any other, whatever its size.
        found += counts / max(int(counts.max()), 1)
    return found


def _numbers(leaves: Sequence[Any], rows: int) -> list[tf.Tensor]:
    tensors = [leaf for leaf in leaves if isinstance(leaf, tf.Tensor) and leaf.shape.rank and leaf.shape[0] == rows]
    return [tf.cast(leaf, tf.int8) if leaf.dtype == tf.bool else leaf for leaf in tensors if _is_number(leaf.dtype)]


def _is_number(dtype: tf.DType) -> bool:
    return bool(dtype.is_floating or dtype.is_integer or dtype == tf.bool)
