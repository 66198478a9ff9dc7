"""Finds out whether a step does the same on one device and on several replicas, before training goes on.

```text
a few rows of the first batch ─┬─ whole, as plain Keras runs the step
                               ├─ whole, in another order: what differs from the first is rounding
                               └─ divided between the replicas: what differs by more is a finding
```

All start from the same state, which is put back afterwards.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.compat.draws import drawing_for, moving_statistics
from kparallel.compat.functions import traced
from kparallel.compat.layers import flatten_layers
from kparallel.compat.optimizers import trained_by
from kparallel.compat.steps import quietly, redirected
from kparallel.compat.variables import copies_of
from kparallel.data.share import RowCounts, first_rows, row_count
from kparallel.errors import ModelError
from kparallel.ownstep.compare import Outcome, compare, described, names
from kparallel.ownstep.step import OwnStep

__all__: list[str] = []

_ROWS = 2  # For each part: of one row a mean and a sum are the same.


class Draws:
    """What Keras's random functions draw in the runs that are compared: for all rows, of which each part takes its own.

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


class Notes:
    """What a run gives to optimizers.

    Args:
        draws: What the run draws.
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self.gradients: list[list[tf.Tensor]] = []
        self.names: list[list[str]] = []
        self.trained: set[int] = set()
        self.conditional = False  # Whether an update stands in a condition of a graph, from which nothing comes out.
        self._graph: Any = None

    def begin(self) -> None:
        """Begin the run, in its graph if it has one."""
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def note(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        """Take note of what reaches an optimizer."""
        self.trained |= {id(variable) for variable in [*variables, *optimizer.variables]}
        if self._graph is not None and tf.compat.v1.get_default_graph() is not self._graph:
            self.conditional = True
            return
        pairs = [(tf.convert_to_tensor(g), v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        self.gradients.append([gradient for gradient, _ in pairs])
        self.names.append(names([getattr(variable, "path", variable.name) for _, variable in pairs]))

    def place(self, first: int, count: int) -> None:
        """Take note of which rows the present replica has."""
        self._draws.begin(first, count)


class Check:
    """A comparison of a step on one device with the same on the replicas.

    Args:
        model: The wrapped model.
        step: Its step over the replicas, which has been traced for a batch.
        plain: The same step, as the user wrote it.
        name: Of the step.
        strategy: Runs the replicas.
        graph: Whether replicas run in graphs alone, as in a cluster.
    """

    def __init__(
        self,
        model: keras.Model,
        step: OwnStep,
        plain: Callable[[Any], Any],
        name: str,
        strategy: tf.distribute.Strategy,
        graph: bool,
    ) -> None:
        self._model = model
        self._step = step
        self._plain = plain
        self._name = name
        self._strategy = strategy
        self._graph = graph

    def run(self, batch: Any, counts: RowCounts, way: str) -> None:
        """Compare the step on a few rows of a batch.

        Args:
            batch: Whole, as the dataset yields it.
            counts: Its rows, with which the step has been traced.
            way: What to do about a finding: `"error"` raises, `"warn"` warns.

        Raises:
            ModelError: The step does not do the same.
        """
        rows = row_count(batch)
        few = min(rows, _ROWS * self._step.replicas)
        if few < 2:
            return
        if self._step.draw is not None:
            warnings.warn(
                f"{self._model.__class__.__name__}.{self._name} draws random numbers by tf.random{self._step.draw}, "
                "which cannot be held equal: whether it does the same on one device and on several replicas was not "
                'looked at. Draw by keras.random, whose draws are held equal, or say wrap(..., check="off").',
                stacklevel=2,
            )
            return
        try:
            finding = self._compared(first_rows(batch, rows if self._step.sized else few), counts)
        except tf.errors.InvalidArgumentError:
            # The step insists on its number of rows.
            few = rows
            finding = self._compared(batch, counts)
        if finding is None:
            return
        text = described(finding, self._model.__class__.__name__, self._name, self._step.replicas, few)
        if way == "error":
            raise ModelError(text)
        warnings.warn(text, stacklevel=2)

    def _compared(self, data: Any, counts: RowCounts) -> Any:
        rows = row_count(data)
        draws = Draws(rows)
        order = np.roll(np.arange(rows), 1)
        layers = flatten_layers(self._model)
        with moving_statistics(layers), drawing_for(lambda: draws), self._step.drawing():
            whole = self._whole(data, draws, None)
            other = self._whole(keras.tree.map_structure(lambda leaf: _ordered(leaf, order), data), draws, order)
            divided = self._divided(data, draws, counts)
        return compare(whole, other, divided)

    def _whole(self, data: Any, draws: Draws, order: Any) -> Outcome:
        """Run the step as plain Keras runs it, eagerly, on one device."""
        draws.whole(order)
        notes = Notes(draws)
        depth: list[int] = []

        def noting(optimizer: Any, apply: Callable[..., Any]) -> Callable[..., Any]:
            def noted(grads: Any, trainable_variables: Any = None) -> Any:
                gradients = list(grads)
                chosen = list(trained_by(optimizer) if trainable_variables is None else trainable_variables)
                if not depth and gradients:
                    notes.note(optimizer, gradients, chosen)
                depth.append(1)
                try:
                    return apply(gradients, chosen)
                finally:
                    depth.pop()

            return noted

        with self._put_back() as read, redirected(self._step.optimizers, "apply", noting):
            results = self._plain(data)
            return _outcome(notes, notes.gradients, read(notes.trained), results)

    def _divided(self, data: Any, draws: Draws, counts: RowCounts) -> Outcome:
        """Run the step on the replicas, each with its share of the rows."""
        draws.divided()
        notes = Notes(draws)
        few = RowCounts(row_count(data))

        def run(data: Any) -> Any:
            notes.begin()
            return self._step.run(self._strategy, data, few, like=counts), notes.gradients

        self._step.trial = notes
        try:
            with self._put_back() as read, quietly():
                results, gradients = (traced(run) if self._graph else run)(data)
                outcome = _outcome(notes, gradients, read(notes.trained), results)
                return replace(outcome, updates=None) if notes.conditional else outcome
        finally:
            self._step.trial = None

    @contextmanager
    def _put_back(self) -> Iterator[Callable[[set[int]], dict[str, Any]]]:
        """Put back what a run writes; meanwhile give what reads it, but for what optimizers write."""
        variables = self._step.variables
        before = [[copy.numpy() for copy in copies_of(variable)] for variable in variables]

        def read(trained: set[int]) -> dict[str, Any]:
            paths = names([variable.path for variable in variables])
            pairs = zip(paths, variables, strict=True)
            return {path: np.asarray(v.numpy()) for path, v in pairs if id(v) not in trained}

        try:
            yield read
        finally:
            for variable, values in zip(variables, before, strict=True):
                for copy, value in zip(copies_of(variable), values, strict=True):
                    copy.assign(value)


def _outcome(notes: Notes, gradients: Any, assigned: dict[str, Any], results: Any) -> Outcome:
    updates = [
        dict(zip(paths, (np.asarray(each) for each in some), strict=True))
        for paths, some in zip(notes.names, gradients, strict=True)
    ]
    flat = keras.tree.flatten_with_path({} if results is None else results)
    returned = {".".join(map(str, path)): np.asarray(leaf) for path, leaf in flat if leaf is not None}
    return Outcome(updates, assigned, returned)


def _ordered(leaf: Any, order: Any) -> Any:
    return tf.gather(leaf, order) if isinstance(leaf, tf.Tensor) and leaf.shape.rank else leaf
