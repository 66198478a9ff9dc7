"""Arrays in an order that is a pure function of (seed, epoch), so that all workers and a resumed run agree on it."""

import math
from typing import Any

import keras
import numpy as np

__all__: list[str] = []


class EpochOrder(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of arrays, shuffled anew for each epoch.

    Args:
        arrays: x, y and sample weights as Keras takes them, NumPy-like leaves or None.
        batch_size: Rows of the global batch.
        seed: Agreed on by all workers.
    """

    def __init__(self, arrays: tuple[Any, Any, Any], batch_size: int, seed: int) -> None:
        super().__init__()
        self._arrays = keras.tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf), arrays)
        self._rows = len(next(leaf for leaf in keras.tree.flatten(self._arrays) if leaf is not None))
        self._batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self._rows / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        chosen = self.order()[index * self._batch_size : (index + 1) * self._batch_size]
        x, y, weights = keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[chosen], self._arrays)
        return (x,) if y is None else (x, y) if weights is None else (x, y, weights)

    def order(self) -> np.ndarray:
        """Return the rows in the present epoch's order."""
        return np.random.default_rng((self.seed, self.epoch)).permutation(self._rows)
