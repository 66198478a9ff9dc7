"""Arrays in an order that is a pure function of (seed, epoch), so that all workers and a resumed run agree on it."""

import math
from typing import Any

import keras
import numpy as np

from kparallel.compat.data import chosen_rows, rows_of_arrays

__all__: list[str] = []


class ShuffledArrays(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of arrays, shuffled anew for each epoch.

    Args:
        arguments: The arguments of `fit`, with arrays. `shuffle="batch"` shuffles the rows inside each batch only.
        seed: The seed, the same on all workers.

    Raises:
        ValueError: Keras refuses the arrays, for instance because their numbers of rows differ.
    """

    def __init__(self, arguments: dict[str, Any], seed: int) -> None:
        super().__init__()
        inputs, self._rows, self._batch_size = rows_of_arrays(arguments)
        parts = keras.utils.unpack_x_y_sample_weight(inputs)
        self._inputs = keras.tree.lists_to_tuples(tuple(part for part in parts if part is not None))
        self._inside_batches = arguments["shuffle"] == "batch"
        self.seed = seed
        self.epoch = 0
        # The epoch in which the present pass began, and `epoch` the one that training is in.
        self.begun = 0
        self._drawn: tuple[tuple[int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        return math.ceil(self._rows / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if index == 0:
            # With fewer steps in an epoch than batches, one pass lasts several epochs. It keeps the order with which it
            # began, also for batches that are read ahead.
            self.begun = self.epoch
        indices = self._order()[index * self._batch_size : (index + 1) * self._batch_size]
        rows: tuple[Any, ...] = keras.tree.map_structure(lambda leaf: chosen_rows(leaf, indices), self._inputs)
        return rows

    def _order(self) -> np.ndarray:
        """Return the order of the rows in the current pass, which is drawn once."""
        # The order of one pass is kept, because each batch asks for it.
        key = (self.seed, self.begun)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, self._draw(np.random.default_rng(key))
        return self._drawn[1]

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        if not self._inside_batches:
            return generator.permutation(self._rows)
        # rows   0 1 2 3 | 4 5 6 7 | 8 9       ─►   2 0 3 1 | 5 4 7 6 | 9 8       no row leaves its batch
        starts = range(0, self._rows, self._batch_size)
        return np.concatenate([s + generator.permutation(min(self._batch_size, self._rows - s)) for s in starts])
