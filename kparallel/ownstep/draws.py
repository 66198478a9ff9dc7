"""What Keras's random functions draw in the runs that are compared: the same numbers for the same rows."""

import threading
from typing import Any

import numpy as np
import tensorflow as tf

__all__: list[str] = []


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
        self._local = threading.local()  # Replicas run in threads of their own.

    def whole(self, order: Any = None) -> None:
        """Begin a run of all rows, perhaps in another order."""
        self._recording, self._order = order is None, order
        self._shapes = [] if order is None else self._shapes
        self.begin(0, self._rows)

    def begin(self, first: int, count: int) -> None:
        """Begin the run of a part, in this thread."""
        self._local.place, self._local.draw = (first, count), 0

    def divided(self) -> None:
        """Let each part begin by itself."""
        self._recording, self._order = False, None

    def number(self, rows: Any) -> int | None:
        """Return for how many rows to draw."""
        index = self._local.draw
        self._local.draw += 1
        if self._recording:
            self._shapes.append(rows == self._rows)
        if index >= len(self._shapes) or not self._shapes[index]:
            return None
        _, count = self._local.place
        return self._rows if not isinstance(rows, int) or rows == count else None

    def own(self, drawn: tf.Tensor) -> tf.Tensor:
        """Return the rows that are this part's."""
        first, count = self._local.place
        if self._order is not None:
            return tf.gather(drawn, self._order)
        return drawn[first : first + count]

    def among(self, given: tf.Tensor) -> tf.Tensor:
        """Return a part's rows among all."""
        first, count = self._local.place
        if self._order is not None:
            return tf.gather(given, np.argsort(self._order))
        rest = [[0, 0]] * (given.shape.rank - 1)
        return tf.pad(given, [[first, self._rows - first - count], *rest])
