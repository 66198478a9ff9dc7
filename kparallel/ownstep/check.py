"""Finds out whether a step does the same on one device and on several replicas, before training goes on.

```text
a few rows of the first batch ─┬─ whole, as plain Keras runs the step
                               ├─ whole, in another order: what differs from the first is rounding
                               └─ divided between the replicas: what differs by more is a finding
```

All start from the same state, which is put back afterwards.
"""

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
from kparallel.compat.losses import loss_trackers
from kparallel.compat.optimizers import trained_by
from kparallel.compat.steps import quietly, redirected
from kparallel.data.share import RowCounts, row_count, rows_at, split_sizes
from kparallel.errors import ModelError
from kparallel.ownstep.compare import Outcome, as_arrays, compare, has_squares, is_finite, names, rounding_of
from kparallel.ownstep.draws import Draws, generators_put_back
from kparallel.ownstep.few_rows import overlapping, telling
from kparallel.ownstep.finding import Finding, described
from kparallel.ownstep.notes import Notes
from kparallel.ownstep.put_back import putting_back
from kparallel.ownstep.step import OwnStep

__all__: list[str] = []


class StepCheck:
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

    def run(self, batch: Any, counts: RowCounts, on_finding: str) -> None:
        """Compare the step on a few rows of a batch.

        Args:
            batch: Whole, as the dataset yields it.
            counts: Its rows, with which the step has been traced.
            on_finding: What to do about a finding: `"error"` raises, `"warn"` warns.

        Raises:
            ModelError: The step does not do the same.
        """
        rows = row_count(batch)
        few = telling(batch, self._step.replicas)
        if self._step.sized or any(len(few) <= size < rows for size in self._step.sizes):
            # A step that insists on its number of rows gets all of them: with fewer it would do otherwise.
            few = list(range(rows))
        if len(few) < 2:
            return
        try:
            # Numbers that differ from run to run would be found.
            if self._step.draw is not None:
                raise _NotHeldError(self._step.draw)
            finding, few = self._found(batch, few, counts)
        except _NotHeldError as error:
            self._warn_unseen(
                f"draws random numbers by tf.random{error}, which cannot be held equal",
                "Draw by keras.random, or by tf.random.normal and tf.random.uniform in the step itself, or say",
            )
            return
        except _InGraphsAloneError as error:
            self._warn_unseen(f"does not run outside of a graph ({error})", "Say")
            return
        if finding is None:
            if self._step.choice is not None:
                self._warn_of_choice(self._step.choice)
            return
        model, step = self._model.__class__.__name__, self._step
        text = described(finding, model, self._name, step.replicas, len(few), step.sums)
        if on_finding == "error":
            raise ModelError(text)
        warnings.warn(text, stacklevel=2)

    def _warn_unseen(self, why: str, way_out: str) -> None:
        warnings.warn(
            f"{self._model.__class__.__name__}.{self._name} {why}: whether it does the same on one device and on "
            f'several replicas was not looked at. {way_out} wrap(..., check="off").',
            stacklevel=4,
        )

    def _warn_of_choice(self, where: str) -> None:
        warnings.warn(
            f"{self._model.__class__.__name__}.{self._name} chooses by a number of each replica's own rows{where}, as "
            "tf.where, tf.cond, tf.maximum or abs of a mean do, where one device chooses by that of the whole batch. A "
            "few rows of the first batch did the same both ways, which later ones may not. Choose by what is equal on "
            'all replicas, such as kparallel.all_reduce of a sum, or say wrap(..., check="off").',
            stacklevel=3,
        )

    def _found(self, batch: Any, few: list[int], counts: RowCounts) -> tuple[Finding | None, list[int]]:
        """Return a finding, if there is one, and with which rows it was found."""
        every = list(range(row_count(batch)))
        try:
            whole, finding = self._compared(batch, few, counts)
            # A loss of these rows may be infinite where that of the whole batch is not: NaN compares with nothing.
            done = few == every or is_finite(whole)
        except tf.errors.InvalidArgumentError:
            done = False
        if not done:
            # The step insists on its number of rows, or divides by what these rows do not have.
            try:
                return self._compared(batch, every, counts)[1], every
            except tf.errors.InvalidArgumentError as error:
                raise self._insists(every, error) from error
        if finding is None:
            # Where an optimizer squares slices, the same again with rows of which two parts look up the same index.
            if not has_squares(whole):
                return None, few
            few = overlapping(len(every), self._step.replicas)
            return self._compared(batch, few, counts)[1], few
        even = few[: len(few) - len(few) % self._step.replicas]
        if self._step.sized or not even or even == few:
            return finding, few
        # In parts of one size a sum is a multiple of the mean it is taken for, which tells the reason.
        again = self._compared(batch, even, counts)[1]
        return (finding, few) if again is None else (again, even)

    def _insists(self, rows: list[int], error: tf.errors.OpError) -> ModelError:
        shares = split_sizes(len(rows), self._step.replicas)
        return ModelError(
            f"Expected {self._model.__class__.__name__}.{self._name} to run with any number of rows, since "
            f"{self._step.replicas} replicas share the {len(rows)} of a batch as {shares}, received from TensorFlow: "
            f"{error.message} Likely it has a number of rows written into it (tf.shape(x)[0] is that of the rows it "
            "sees), or compares rows with one another (kparallel.gather gives it those of all replicas)."
        )

    def _compared(self, batch: Any, indices: list[int], counts: RowCounts) -> tuple[Outcome, Finding | None]:
        """Return what some rows of a batch do whole, and what is not the same divided."""
        data = batch if len(indices) == row_count(batch) else rows_at(batch, indices)
        rows = row_count(data)
        draws = Draws(rows)
        order = np.roll(np.arange(rows), 1).tolist()
        layers = flatten_layers(self._model)
        with generators_put_back(), moving_statistics(layers), drawing_for(lambda: draws), self._step.drawing():
            # In this order: the first run records for which draws the rows count, and the other two repeat its
            # numbers.
            whole = self._whole(data, draws, None)
            if draws.seeded < self._step.draws:  # As by tf.raw_ops, of which only the operation is seen.
                raise _NotHeldError("")
            other = self._whole(rows_at(data, order), draws, order)
            divided = self._divided(data, draws, counts)
        return whole, compare(whole, other, divided, rounding_of(layers, self._step.compression))

    def _whole(self, data: Any, draws: Draws, order: Any) -> Outcome:
        """Run the step as plain Keras runs it, eagerly, on one device."""
        draws.whole(order)
        notes = Notes(draws)
        depth: list[int] = []
        notes.begin(self._step.variables)

        def noting(optimizer: Any, apply: Callable[..., Any]) -> Callable[..., Any]:
            def noted(grads: Any, trainable_variables: Any = None) -> Any:
                gradients = list(grads)
                chosen = list(trained_by(optimizer) if trainable_variables is None else trainable_variables)
                number = min(len(gradients), len(chosen))
                # An optimizer that scales the loss calls the one inside it, which would be noted a second time.
                outermost = not depth and bool(gradients)
                if outermost:
                    notes.note(optimizer, gradients[:number], chosen[:number])
                depth.append(1)
                try:
                    return apply(gradients, chosen)
                finally:
                    depth.pop()
                    if outermost:
                        notes.updated(chosen[:number])

            return noted

        with self._put_back() as read, redirected(self._step.optimizers, "apply", noting):
            try:
                results = self._plain(data)
            except (ModelError, tf.errors.OpError):
                raise
            except Exception as error:
                raise _InGraphsAloneError(error) from error
            return self._outcome(notes, notes.gradients, read(notes.trained), results)

    def _divided(self, data: Any, draws: Draws, counts: RowCounts) -> Outcome:
        """Run the step on the replicas, each with its share of the rows."""
        draws.divided()
        notes = Notes(draws)
        few = RowCounts(row_count(data))

        def run(data: Any) -> Any:
            notes.begin(self._step.variables)
            return self._step.run(self._strategy, data, few, like=counts), notes.gradients

        self._step.trial = notes
        try:
            with self._put_back() as read, quietly():
                results, gradients = (traced(run) if self._graph else run)(data)
                outcome = self._outcome(notes, gradients, read(notes.trained), results)
                # From inside a condition of a graph no gradient comes out, so those of this run are unknown.
                return replace(outcome, updates=None) if notes.conditional else outcome
        finally:
            self._step.trial = None

    def _outcome(self, notes: Notes, gradients: Any, assigned: dict[str, Any], results: Any) -> Outcome:
        updates = [
            {path: as_arrays(gradient, squared) for path, gradient in zip(paths, some, strict=True)}
            for paths, some, squared in zip(notes.names, gradients, notes.squared, strict=True)
        ]
        flat = keras.tree.flatten_with_path({} if results is None else results)
        returned = {".".join(map(str, path)): np.asarray(leaf) for path, leaf in flat if leaf is not None}
        # Keras counts the loss of each of several outputs by the rows that it knows: those of a part in an eager run,
        # none in the step's graph.
        counted = {tracker.name for tracker in loss_trackers(self._model)}
        compared = {name: value for name, value in returned.items() if name not in counted}
        return Outcome(updates, assigned, compared, notes.moved())

    @contextmanager
    def _put_back(self) -> Iterator[Callable[[set[int]], dict[str, Any]]]:
        """Put back what a run writes; meanwhile give what reads it, but for what optimizers write."""
        variables = self._step.variables
        counted = {id(variable) for tracker in loss_trackers(self._model) for variable in tracker.variables}

        def read(trained: set[int]) -> dict[str, Any]:
            paths = names([variable.path for variable in variables])
            # What optimizers write is left out: of a gradient that is all rounding Adam makes a whole step.
            pairs = zip(paths, variables, strict=True)
            return {path: np.asarray(v.numpy()) for path, v in pairs if id(v) not in trained | counted}

        with putting_back(variables):
            yield read


class _NotHeldError(Exception):
    """Raised where a step draws what cannot be held equal."""


class _InGraphsAloneError(Exception):
    """Raised where a step does not run eagerly."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
