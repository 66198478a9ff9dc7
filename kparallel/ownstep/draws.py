"""What random functions draw in the runs that are compared: the same numbers for the same rows.

Keras's and TensorFlow's functions draw for all rows, of which each part takes its own. What Python's and NumPy's
generators draw while code is traced, such as which layers `AugMix` applies, knows no rows: every run and every part
begins from the same numbers.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from kparallel.compat.draws import operation_seeds_put_back

__all__: list[str] = []


@contextmanager
def generators_put_back() -> Iterator[None]:
    """Put back all generators of numbers, so that what follows draws as if nothing had been run meanwhile."""
    before = _generators()
    try:
        with operation_seeds_put_back():
            yield
    finally:
        _set_generators(*before)


class Draws:
    """Lets each run draw for all rows, of which each part takes its own.

    Args:
        rows: How many rows there are.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._shapes: list[bool] = []  # Of each draw, whether it was for the rows.
        self._order: Any = None
        self._recording = False
        self.seeded = 0  # How many draws of the first run were seeded here: those of TensorFlow's own.
        self._local = threading.local()  # Replicas run in threads of their own.
        self._generators = _generators()

    def whole(self, order: Any = None) -> None:
        """Begin a run of all rows, perhaps in another order."""
        self._recording, self._order = order is None, order
        self._shapes = [] if order is None else self._shapes
        self.begin(0, self._rows)

    def begin(self, first: int, count: int) -> None:
        """Begin the run of a part, in this thread."""
        # `place` is (first row, number of rows) of the part, and `draw` counts its draws.
        self._local.place, self._local.draw = (first, count), 0
        _set_generators(*self._generators)

    def divided(self) -> None:
        """Let each part begin by itself."""
        self._recording, self._order = False, None

    def number(self, rows: Any) -> int | None:
        """Return for how many rows to draw."""
        index = self._local.draw
        self._local.draw += 1
        # Draw number i is for the rows if its first dim was their number when all rows ran.
        if self._recording:
            self._shapes.append(rows == self._rows)
        if index >= len(self._shapes) or not self._shapes[index]:
            return None
        _, count = self._local.place
        return self._rows if not isinstance(rows, int) or rows == count else None

    def seed(self) -> int:
        """Return a seed for the last draw: its number among those of its part."""
        self.seeded += self._recording
        return int(self._local.draw)

    def own(self, drawn: tf.Tensor) -> tf.Tensor:
        """Return the rows that are this part's."""
        first, count = self._local.place
        if self._order is not None:
            # The run in another order has the same numbers for the same rows.
            return tf.gather(drawn, self._order)
        return drawn[first : first + count]

    def among(self, given: tf.Tensor) -> tf.Tensor:
        """Return a part's rows among all."""
        first, count = self._local.place
        if self._order is not None:
            return tf.gather(given, np.argsort(self._order))
        rest = [[0, 0]] * (given.shape.rank - 1)
        # The other parts' rows are zeros: what is drawn for them is cut off again.
        return tf.pad(given, [[first, self._rows - first - count], *rest])


def _generators() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _set_generators(python: Any, numpy: Any) -> None:
    random.setstate(python)
    np.random.set_state(numpy)
