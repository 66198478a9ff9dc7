"""The functions that Keras's loops call: one batch in, logs or outputs out."""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import keras
import tensorflow as tf

from kparallel.comm.failures import translate_worker_loss
from kparallel.compat.functions import traced
from kparallel.compat.losses import compiled_loss, compiled_metrics, loss_tracker, loss_weights
from kparallel.compat.tensors import set_logits, set_mask
from kparallel.compat.training import known_rows
from kparallel.data.share import RowCounts, row_count
from kparallel.engine.report import StepReport
from kparallel.engine.step import Step
from kparallel.errors import DataError
from kparallel.loss.term import as_scalar
from kparallel.model.build import build_missing
from kparallel.model.columns import owners_of
from kparallel.model.loss_of_model import LossOfModel, may_need_the_model
from kparallel.model.runtime import Runtime
from kparallel.workers.fetch import Fetch, agree_on_end

__all__: list[str] = []


class Check(Protocol):
    """What is found out of a batch before a step runs on it."""

    def is_due(self, batch: Any) -> bool:
        """Tell whether to compare a batch."""

    def compare(self, batch: Any) -> str | None:
        """Compare a batch with its parts, and return what to warn of if the step itself runs."""


def step_function(
    model: Any,
    runtime: Runtime,
    choose: Callable[[Step], Callable[..., StepReport]],
    whole: Callable[[Any], Any],
    check: Check | None = None,
    trains: bool = False,
) -> Callable[[Any], Any]:
    """Return the function that `fit` or `evaluate` calls with an iterator over batches.

    Args:
        model: The compiled wrapped model.
        runtime: Its plan and what carries it out.
        choose: Picks the step's `train` or `test`.
        whole: A function of one batch that runs Keras's own step, for a `compute_loss` that needs the model.
        check: What is found out of the first batch.
        trains: Whether the step updates the weights. Default False.
    """
    passes = _Compiled(
        model, runtime, choose, lambda rows, report: _log(model, runtime, report, rows), check=check, trains=trains
    )
    # Only tracing shows whether `compute_loss` reads more than the outputs, so both ways stand ready.
    needed = may_need_the_model(model, runtime.plan)
    return over_batches(model, runtime, LossOfModel(passes, whole) if needed else passes)


def over_batches(model: Any, runtime: Runtime, compiled: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function of an iterator over batches, which runs as many steps as Keras asks for in one call.

    Args:
        model: The compiled wrapped model.
        runtime: Its plan and what carries it out.
        compiled: A step: takes a batch, returns logs.
    """
    fetch = Fetch(runtime.placement, runtime.strategy, runtime.epoch)

    def run(iterator: Any) -> Any:
        # The next batch is fetched before the step starts: inside it, an exhausted dataset would raise
        # only after an update from an empty batch.
        logs = None
        # Keras counts one call as so many steps. The last call of an epoch may find fewer batches.
        for _ in range(model.steps_per_execution):
            batch = fetch(iterator)
            if batch is None:
                break
            logs = compiled(batch)
        # The signal by which Keras's loops end an epoch of unknown length.
        if logs is None:
            raise StopIteration
        return logs

    return run


def predict_function(model: Any, runtime: Runtime, check: Check | None = None) -> Callable[[list[Any]], Any]:
    """Return the function that `predict` calls with a list of batches.

    Args:
        model: The wrapped model.
        runtime: Its plan and what carries it out.
        check: What is found out of the first batch.
    """

    def outputs(_: int | None, report: Any) -> Any:
        return first_share(runtime, report)

    return over_lists(runtime, _Compiled(model, runtime, lambda step: step.predict, outputs, True, check))


def over_lists(runtime: Runtime, compiled: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    """Return a function of a list of batches, as `predict` calls it, which gives the outputs of all.

    Args:
        runtime: The plan and what carries it out.
        compiled: A step: takes a batch, returns outputs.
    """

    def run(batches: list[Any]) -> Any:
        if runtime.epoch.unsized:
            agree_on_end(runtime.placement, len(batches))
        outputs = [compiled(batch) for batch in batches]
        return outputs[0] if len(outputs) == 1 else keras.tree.map_structure(_concatenate, *outputs)

    return run


def first_share(runtime: Runtime, value: Any) -> Any:
    """Return the first replica's part of a structure."""
    return keras.tree.map_structure(lambda v: runtime.strategy.experimental_local_results(v)[0], value)


def tensors(batch: Any) -> Any:
    """Return a batch as tensors, each whole or divided between the replicas."""
    return keras.tree.map_structure(_tensor, batch)


class _Compiled:
    """A function of one batch: the replicas' step on it, then `finish` on what they return.

    One graph is kept for each number of rows, so that every share and microbatch has a known size.

    Args:
        model: The wrapped model; what it has not built is built from the batch, as plain Keras does.
        runtime: Its plan and what carries it out.
        choose: Picks the method of the step that each replica runs.
        finish: Takes the rows that plain Keras would know the batch to have, and what the replicas returned.
        predicts: Whether the batch has inputs alone, so that neither loss nor optimizer can be built from it.
        check, trains: As `step_function` takes them.
    """

    def __init__(
        self,
        model: Any,
        runtime: Runtime,
        choose: Callable[[Step], Callable[..., Any]],
        finish: Callable[[int | None, Any], Any],
        predicts: bool = False,
        check: Check | None = None,
        trains: bool = False,
    ) -> None:
        self._model = model
        self._runtime = runtime
        self._choose = choose
        self._finish = finish
        self._predicts = predicts
        self._check = check
        self._trains = trains
        self._step: Step | None = None
        self._moves = runtime.moves
        # A graph for each number of rows, because the sizes of shares and microbatches are constants in it. `moves`
        # tells when variables have changed their devices, after which no graph is valid any more.
        self._graphs: dict[tuple[RowCounts, int | None], Any] = {}
        self._known_rows = known_rows(model)

    def __call__(self, batch: Any) -> Any:
        batch, runtime = tensors(batch), self._runtime
        graph = self._graph(batch, counts_of(runtime, batch), self._rows(batch))
        warning = None
        # Before the first step runs, since the comparison needs the state that the step would change.
        if self._check is not None and self._check.is_due(batch):
            if not self._model.run_eagerly:
                graph.get_concrete_function(batch)  # What a trace refuses comes first: it names the reason.
            warning = self._check.compare(batch)
        if self._trains and runtime.shared_out is not None:
            if not runtime.shared_out.is_apart and not self._model.run_eagerly:
                graph.get_concrete_function(batch)  # An optimizer of the user's own is looked into with all slots.
            runtime.shared_out.release()
        with translate_worker_loss():
            try:
                found = graph(batch)
            except tf.errors.OpError:
                # The other workers wait for this one in a collective of the step. Closed connections end their wait.
                runtime.placement.abort()
                raise
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        return found

    def _rows(self, batch: Any) -> int | None:
        """Return how many rows plain Keras would know a batch to have, where they count: with several targets."""
        targets = None if self._predicts else keras.utils.unpack_x_y_sample_weight(batch)[1]
        return self._known_rows(batch) if len(keras.tree.flatten(targets)) > 1 else None

    def _graph(self, batch: Any, counts: RowCounts, rows: int | None) -> Any:
        if (counts, rows) not in self._graphs or self._moves != self._runtime.moves:
            build_missing(self._model, self._runtime, first_share(self._runtime, batch), self._predicts)
        if self._moves != self._runtime.moves:
            self._step, self._moves = None, self._runtime.moves
            self._graphs.clear()
        if (counts, rows) not in self._graphs:
            self._graphs[counts, rows] = self._trace(counts, rows)
        return self._graphs[counts, rows]

    def _trace(self, counts: RowCounts, rows: int | None) -> Any:
        runtime = self._runtime
        if self._step is None:
            self._step = Step(
                self._model,
                runtime.pipeline(self._model),
                runtime.plan,
                runtime.placement,
                runtime.loss_reduction,
                runtime.jit,
                owners_of(self._model, runtime),
            )
        step = self._step

        def one(data: Any) -> Any:
            return self._finish(rows, runtime.strategy.run(self._choose(step), args=(data, counts)))

        return one if self._model.run_eagerly else traced(one, reduce_retracing=True)


def counts_of(runtime: Runtime, batch: Any) -> RowCounts:
    """Return the rows of a batch, whole or divided between the replicas."""
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    first = leaves[0] if leaves else None
    if isinstance(first, tf.distribute.DistributedValues):
        return RowCounts(tuple(map(row_count, runtime.strategy.experimental_local_results(first))))
    numbers = [row_count(leaf) for leaf in leaves]
    if len(set(numbers)) > 1:
        raise DataError(
            f"Expected tensors of as many rows each, which replicas and microbatches share, received {numbers} rows. "
            "Give every input, target and weight the batch's rows as its first dim."
        )
    return RowCounts(row_count(first))


def _log(model: Any, runtime: Runtime, report: StepReport, rows: int | None) -> dict[str, Any]:
    """Enter what the replicas report into the metrics, once, and return the logs.

    Args:
        model: The compiled wrapped model.
        runtime: Its plan and what carries it out.
        report: Of each replica.
        rows: By which Keras weighs the losses of several outputs; None for 1.
    """
    first: StepReport = first_share(runtime, report)
    dtype = loss_tracker(model).dtype
    values = tf.cast(first.terms, dtype)
    losses = compiled_loss(model)
    # `[term]`: the compiled losses first, in Keras's order, with their weights; then added losses and penalties, which
    # have a weight of 1.
    scales = [as_scalar(weight, dtype) for weight in loss_weights(model)][: values.shape[0]]
    scales += [as_scalar(None, dtype)] * (int(values.shape[0]) - len(scales))
    loss = tf.reduce_sum(values * tf.stack(scales)) if scales else tf.zeros((), dtype)
    # Weighted by rows, as Keras does it, so that an epoch's loss is the mean over its rows.
    loss_tracker(model).update_state(loss, sample_weight=tf.cast(first.rows, dtype))
    if losses is not None:
        for tracker, value in zip(losses.metrics, tf.unstack(values), strict=False):
            tracker.update_state(value, sample_weight=rows)
    if first.batch is not None:
        x, y, outputs, weight, logits, masks = first.batch
        for attributes, attach in ((logits, set_logits), (masks, set_mask)):
            for leaf, behind in zip(keras.tree.flatten(outputs), keras.tree.flatten(attributes), strict=True):
                if behind is not None:
                    attach(leaf, behind)
        logs: dict[str, Any] = model.compute_metrics(x, y, outputs, sample_weight=weight)
        return logs
    metrics = compiled_metrics(model)
    for variable, change in zip(metrics.variables if metrics else [], first.metrics, strict=True):
        # Each change began from the reset state, so changes add up over batches as they do over replicas.
        variable.assign(variable + tf.cast(change, variable.dtype))
    results: dict[str, Any] = model.get_metrics_result()
    return results


def _tensor(leaf: Any) -> Any:
    if isinstance(leaf, tf.experimental.Optional):
        return None  # What Keras makes of a None that a generator yields.
    plain = leaf is None or tf.is_tensor(leaf) or isinstance(leaf, tf.distribute.DistributedValues)
    return leaf if plain else tf.convert_to_tensor(leaf)


def _concatenate(*leaves: Any) -> Any:
    return leaves[0] if leaves[0] is None or len(leaves) == 1 else tf.concat(leaves, 0)
