"""What a run that is compared with another one gives to optimizers, and what it assigns around their updates."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.engine.sparse_gradients import scales_and_adds
from kparallel.ownstep.compare import names
from kparallel.ownstep.draws import Draws

__all__: list[str] = []


class Notes:
    """Takes note of the gradients of each update, and of what the step itself assigns to weights around the updates.

    An optimizer such as Adam makes a large step of a gradient that is all rounding. So what is compared of a weight
    that it updates is what the weight would be without the updates:

    ```text
    begin ──assigned──► update ─ ─ ─► ──assigned──► update ─ ─ ─► ──assigned──► end
    ```

    Args:
        draws: What the run draws.
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self.gradients: list[list[Any]] = []
        self.names: list[list[str]] = []
        self.squared: list[bool] = []  # Whether an optimizer squares or clips the slices of a gradient one by one.
        self.trained: set[int] = set()
        self.conditional = False  # Whether an update stands in a condition of a graph, from which nothing comes out.
        self._graph: Any = None
        self._weights: dict[int, Any] = {}  # Those that optimizers update, by id.
        self._since: dict[int, Any] = {}  # What each weight was at the beginning, or after its last update.
        self._moved: dict[int, Any] = {}  # What each would be without the updates, at its last one.

    def begin(self, variables: Sequence[keras.Variable]) -> None:
        """Begin the run, in its graph if it has one.

        Args:
            variables: What it may write.
        """
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if self._graph is None:
            self._since = {id(variable): _number(variable) for variable in variables if variable.trainable}
            self._moved = dict(self._since)

    def note(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        """Take note of what reaches an optimizer."""
        # Nothing but the step assigns a learning rate.
        own = [variable for variable in optimizer.variables if variable.name != "learning_rate"]
        self.trained |= {id(variable) for variable in [*variables, *own]}
        self._weights |= {id(variable): variable for variable in variables}
        self._move(variables)
        if self._graph is not None and tf.compat.v1.get_default_graph() is not self._graph:
            self.conditional = True
            return
        pairs = [(_noted(g), v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        self.gradients.append([gradient for gradient, _ in pairs])
        self.squared.append(not scales_and_adds(optimizer))
        self.names.append(names([getattr(variable, "path", variable.name) for _, variable in pairs]))

    def updated(self, variables: list[Any]) -> None:
        """Take note of what an update has left."""
        if self._graph is None:
            self._since |= {id(variable): _number(variable) for variable in variables}

    def moved(self) -> dict[str, Any] | None:
        """Return what the weights that were updated would be without the updates; None for a run in a graph."""
        if self._graph is not None:
            return None
        weights = [weight for key, weight in self._weights.items() if key in self._moved]
        self._move(weights)
        paths = names([weight.path for weight in weights])
        return {path: self._moved[id(weight)] for path, weight in zip(paths, weights, strict=True)}

    def place(self, first: int, count: int) -> None:
        """Take note of which rows the present replica has."""
        self._draws.begin(first, count)

    def _move(self, variables: Sequence[Any]) -> None:
        if self._graph is not None:
            return
        for variable in variables:
            if id(variable) in self._since:
                now = _number(variable)
                # moved += now - since      what the step itself has changed since the last update
                # since  = now              from here on the next change is counted
                self._moved[id(variable)] = self._moved[id(variable)] + (now - self._since[id(variable)])
                self._since[id(variable)] = now


def _number(variable: Any) -> Any:
    """Return what a variable holds, in this replica if one runs."""
    return np.asarray(tf.cast(variable.value, "float64"))


def _noted(gradient: Any) -> Any:
    return gradient if isinstance(gradient, tf.IndexedSlices) else tf.convert_to_tensor(gradient)
