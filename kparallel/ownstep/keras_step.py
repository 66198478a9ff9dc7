"""Finds out whether layers and losses of the user's own do the same on a batch and on its parts, in Keras's own step.

```text
a few rows of the first batch ─┬─ whole
                               ├─ whole, in another order: what differs from the first is rounding
                               └─ in parts, as microbatches: what differs by more is a finding
```

One device of each stage runs all three, and nothing is written. A layer or loss that sees no other rows than a part's
sees the same in a replica and in a microbatch. So no other replica takes part, nor any other worker.
"""

import warnings
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica, add
from kparallel.comm.group import SingleWorker
from kparallel.compat.draws import drawing_for, moving_statistics
from kparallel.compat.layers import flatten_layers
from kparallel.compat.steps import drawing_from
from kparallel.data.share import RowCounts, row_count, rows_at
from kparallel.engine.placement import Placement
from kparallel.engine.sparse_gradients import MicrobatchSlices
from kparallel.engine.stage_function import StageFunction
from kparallel.engine.step import Step
from kparallel.errors import ModelError
from kparallel.loss.overridden import overrides_compute_loss, own_variables
from kparallel.mesh import Mesh
from kparallel.ownstep.compare import Outcome, as_arrays, compare, is_finite, names, rounding_of
from kparallel.ownstep.custom import listed
from kparallel.ownstep.draws import Draws, generators_put_back
from kparallel.ownstep.few_rows import telling
from kparallel.ownstep.finding import Finding
from kparallel.ownstep.put_back import putting_back
from kparallel.planning.plan import Plan
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.stage import Forward, Stage
from kparallel.stage.state import End, RowRange, Rule, State

__all__: list[str] = []

_PARTS = 2  # What two parts do not show, more do not either.


class ModelCheck:
    """A comparison of a batch with its parts, in the step that kparallel runs in place of Keras's.

    Args:
        model: The compiled and built model.
        pipeline: Its stages, made for this check alone.
        plan: Its plan.
        devices: `[s]`: where the stages run.
        loss_reduction: As `Step` takes it.
        code: The names of the user's own code.
        name: Of the step: `"train_step"`, `"test_step"` or `"predict_step"`.
    """

    def __init__(
        self,
        model: keras.Model,
        pipeline: Pipeline,
        plan: Plan,
        devices: tuple[str, ...],
        loss_reduction: str,
        code: list[str],
        name: str = "train_step",
    ) -> None:
        self._model = model
        self._pipeline = pipeline
        self._plan = plan
        self._devices = devices
        self._loss_reduction = loss_reduction
        self._code = code
        self._name = name
        self._draws: list[Draws] = []  # `[s]`
        self._rows: Any = _Elsewhere()  # For which rows random functions now draw.
        self._states = [_FromTheStart(stage.state) for stage in pipeline.stages]
        for stage, state in zip(pipeline.stages, self._states, strict=True):
            stage.state = state

    def run(self, batch: Any, parts: int, on_finding: str) -> str:
        """Compare a few rows of a batch with their parts.

        Args:
            batch: Whole, or what one replica has of it.
            parts: Into how many parts the plan divides it.
            on_finding: What to do about a finding: `"error"` raises, `"warn"` warns.

        Returns:
            Why no rows could be compared, in words; the empty text where some were.

        Raises:
            ModelError: The parts do not do the same.
        """
        rows, why_not = row_count(batch), ""
        few = telling(batch, _PARTS)
        # First a few rows; if these do not run by themselves, all of them in as many parts as the plan has.
        for indices, number in ((few, _PARTS), (list(range(rows)), min(parts, rows))):
            try:
                finding = self._compared(rows_at(batch, indices), number)
            except _DrawsInLoss:
                return "a loss draws random numbers"
            except Exception as error:
                # Code of the user's own may insist on its number of rows, by any kind of error. A refusal of ours
                # counts for nothing here either: the parts run as microbatches, and may be refused where replicas
                # are not. Where they are, the step itself says so.
                why_not = f"its rows do not run by themselves ({type(error).__name__}: {_in_one_line(error)})"
                continue
            if finding is not None:
                self._report(finding, len(indices), number, on_finding)
            return ""
        return why_not

    def _compared(self, data: Any, parts: int) -> Finding | None:
        rows = row_count(data)
        order = np.roll(np.arange(rows), 1).tolist()
        self._draws = [Draws(rows) for _ in self._pipeline.stages]
        layers = flatten_layers(self._model)
        with generators_put_back(), moving_statistics(layers), drawing_for(lambda: self._rows):
            whole = self._outcome(data, 1, None)
            other = self._outcome(rows_at(data, order), 1, order)
            divided = self._outcome(data, parts, None)
        if self._name == "train_step" and not is_finite(whole):
            raise ArithmeticError(
                "Expected finite gradients of a few rows, received others: they compare with nothing."
            )
        return compare(whole, other, divided, rounding_of(layers))

    def _outcome(self, data: Any, parts: int, order: Any) -> Outcome:
        """Run the passes of a training step on some rows, in a number of microbatches."""
        rows = row_count(data)
        # Each stage draws in an order of its own, whatever the schedule, so each has its own record.
        for draws in self._draws:
            if parts == 1:
                draws.whole(order)
            else:
                draws.divided()
        mesh, single = Mesh((self._devices,)), tuple(SingleReplica() for _ in self._devices)
        # The plan of the passes alone: one replica, forward and then backward.
        plan = replace(
            self._plan,
            mesh=mesh,
            microbatches=parts,
            schedule="gpipe",
            recompute="never",
            shard=None,  # One replica has nobody to share with.
            batch_size=None,
        )
        placement = Placement((self._devices,), 0, 1, single, SingleWorker())
        step = Step(self._model, self._pipeline, plan, placement, self._loss_reduction, False, functions=self._function)
        if self._name == "predict_step":
            return _predicted(step.dry_predict(data, RowCounts(rows)), order)
        # Where a loss is computed from the whole batch, an overridden compute_loss writes at once.
        written = own_variables(self._model) if overrides_compute_loss(self._model) else []
        with putting_back(written):
            result, report = step.dry_run(data, RowCounts(rows), training=self._name == "train_step")
        values = {f"loss {index}": np.asarray(term) for index, term in enumerate(report.terms)}
        if self._name == "test_step":
            changes = {f"metric {index}": np.asarray(change) for index, change in enumerate(report.metrics)}
            return Outcome([], {}, values | changes)
        # Slices are summed by index: how many there are is decided from the graph (`gather_kinds`), and not compared.
        gradients, paths = [], []
        for stage, of_stage in zip(self._pipeline.stages, result.gradients, strict=True):
            for variable, gradient in zip(stage.weights, of_stage, strict=True):
                if gradient is not None:
                    slices = isinstance(gradient, MicrobatchSlices)
                    gradients.append(as_arrays(add(list(gradient.parts)) if slices else gradient, squared=False))
                    paths.append(variable.path)
        return Outcome([dict(zip(names(paths), gradients, strict=True))], {}, values)

    def _function(self, stage: Stage, training: bool) -> StageFunction:
        """Return a function that calls a stage as it is, and lets it draw for the rows of its microbatch."""
        index = self._pipeline.stages.index(stage)

        def call(weights: list[Any], state: list[Any], inputs: list[Any]) -> Forward:
            self._draws[index].begin(*self._states[index].rows)
            self._rows = self._draws[index]
            try:
                # Random functions without a seed draw from a generator that begins anew for each part.
                with drawing_from(keras.random.SeedGenerator(0)):
                    return stage.forward(weights, state, inputs, training)
            finally:
                self._rows = _Elsewhere()

        return call

    def _report(self, finding: Finding, rows: int, parts: int, on_finding: str) -> None:
        text = _described(finding, self._model.__class__.__name__, self._name, self._code, rows, parts)
        if on_finding == "error":
            raise ModelError(text)
        warnings.warn(text, stacklevel=2)


class _FromTheStart(State):
    """The state of a stage of which each part begins with what was before the batch, and leaves nothing behind.

    Args:
        state: What it is otherwise.
    """

    def __init__(self, state: State) -> None:
        super().__init__(state.variables, set(), set(), set())
        self.known = [rule if rule is Rule.ROWS else Rule.COMMON for rule in state.known]
        self.rows = (0, 0)  # The index of the first of the rows, and their number, of which a call now follows.

    def of_rows(self, state: list[tf.Tensor], row_range: RowRange) -> list[tf.Tensor]:
        self.rows = (row_range.first or 0, row_range.count)
        return super().of_rows(state, row_range)

    def chain(self, state: list[tf.Tensor], end: End, rules: Any) -> list[tf.Tensor]:
        return state

    def changes(self, *_: Any) -> list[tf.Tensor]:
        return []


def _in_one_line(error: Exception) -> str:
    """Return the start of an error's text, without the bold type that Keras adds."""
    text = str(error).replace("\x1b[1m", "").replace("\x1b[0m", "")
    return " ".join(text.split())[:200]


class _DrawsInLoss(Exception):
    """Raised where a loss draws random numbers, which nothing holds equal."""


class _Elsewhere:
    """The rows for which a loss draws."""

    def number(self, rows: Any) -> int | None:
        raise _DrawsInLoss

    def seed(self) -> int:
        return 0

    def own(self, drawn: tf.Tensor) -> tf.Tensor:
        return drawn

    def among(self, given: tf.Tensor) -> tf.Tensor:
        return given


def _predicted(outputs: Any, order: Any) -> Outcome:
    """Return outputs, those of rows in another order in the order of the others."""
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(outputs) if leaf is not None]
    places = slice(None) if order is None else np.argsort(order)
    return Outcome([], {}, {f"output {index}": leaf[places] for index, leaf in enumerate(leaves)})


_DOES = {"train_step": "do the same", "test_step": "evaluate the same", "predict_step": "predict the same"}
_GOES_ON = {"train_step": "trains", "test_step": "evaluates", "predict_step": "predicts"}


def _described(finding: Finding, model: str, name: str, code: list[str], rows: int, parts: int) -> str:
    """Return what was expected, what came and the ways out."""
    return (
        f"Expected {model} to {_DOES[name]} with {rows} rows whole and in {parts} parts, as replicas and microbatches "
        f"have them, received {finding.what}, which differs by {finding.difference:.2g} of its size. Likely code of "
        f"your own ({listed(code)}) compares rows with one another, or has a number of rows written into it. "
        f'wrap(..., loss_reduction="global") gives a loss all rows, and "sum" says that it is a sum; in a {name} of '
        f'your own kparallel.gather gives a layer all rows. With wrap(..., check="warn") it {_GOES_ON[name]} all the '
        "same: each part by itself, not as on one device."
    )
