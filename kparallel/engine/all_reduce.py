"""The sums over the replicas behind the backward pass: gradients and state of each stage, then what is reported."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import add, local_copy
from kparallel.comm.compression import compressed, restored
from kparallel.data.share import Rows
from kparallel.engine.colocate import colocate_with_inputs
from kparallel.engine.executor import Executor
from kparallel.engine.placement import Placement
from kparallel.engine.sparse_gradients import MicrobatchSlices, SlicedGradient, joined
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.stage import Stage

__all__: list[str] = []

Sort = Callable[[int, int], SlicedGradient]

_SMALL = 2**22  # Bytes of a variable whose gradient is rather summed whole than gathered in slices.


@dataclass(frozen=True)
class Report:
    """What is reported of a step: of one replica, or summed over all.

    Args:
        rows: How many rows there were.
        replicas: How many replicas had rows.
        terms: Each loss term's part of its value.
        metrics: By how much each variable of the metrics changes.
        loss_state: By how much each variable of the metrics changes that a model's own `compute_loss` updates.
    """

    rows: tf.Tensor
    replicas: tf.Tensor
    terms: list[tf.Tensor]
    metrics: list[tf.Tensor]
    loss_state: list[tf.Tensor]


@dataclass(frozen=True)
class Sums:
    """What the replicas have summed.

    Args:
        gradients: The gradient of each variable by its id.
        states: The changes of state of each stage.
        report: What is reported.
    """

    gradients: dict[int, Any]
    states: list[list[tf.Tensor]]
    report: Report


def gradients_of(pipeline: Pipeline, row: tuple[str, ...], executor: Executor, sort: Sort) -> dict[int, list[Any]]:
    """Return this replica's gradients of each variable by its id: tensors, or else `SlicedGradient`s.

    Tied weights have one from each stage that reads them. Slices and tensors of one variable add up to a tensor, as
    they do on one device.

    Args:
        pipeline: The stages.
        row: This replica's devices.
        executor: Has carried out the batch.
        sort: Sorts the slices of a weight, by its stage and index.
    """
    parts: dict[int, list[tuple[int, int, Any]]] = {}
    for s, (stage, gradients) in enumerate(zip(pipeline.stages, executor.gradients, strict=True)):
        for index, (variable, gradient) in enumerate(zip(stage.weights, gradients, strict=True)):
            if gradient is not None:
                parts.setdefault(id(variable), []).append((s, index, gradient))

    def one(s: int, index: int, gradient: Any, sliced: bool) -> Any:
        if not isinstance(gradient, MicrobatchSlices):
            return gradient
        with tf.name_scope(f"reduce{s}"), _place(pipeline, row, s):
            return sort(s, index) if sliced else gradient.dense()

    result = {}
    for variable, found in parts.items():
        sliced = all(isinstance(gradient, MicrobatchSlices) for _, _, gradient in found)
        result[variable] = [one(*each, sliced) for each in found]
    return result


def reduced(
    pipeline: Pipeline,
    placement: Placement,
    row: tuple[str, ...],
    executor: Executor,
    rows: Rows,
    gradients: dict[int, list[Any]],
    report: Report,
    dense: bool = False,
) -> Sums:
    """Sum each stage's gradients and changes of state over its column, the last stage's first: it is ready first.

    The report goes with the last stage's, so that one exchange is all that a step of one stage waits for.

    Args:
        pipeline: The stages.
        placement: Has each stage's communicator.
        row: This replica's devices.
        executor: Has carried out the batch.
        rows: This replica's rows.
        gradients: As `gradients_of` returns them; none to evaluate.
        report: This replica's.
        dense: Whether `tf.IndexedSlices` may become tensors; those of small variables do.
    """
    alone = placement.replicas == 1
    way = None if alone else placement.compression
    result: dict[int, Any] = {}
    states: list[list[tf.Tensor]] = []
    numbers: list[tf.Tensor] = []
    for s, stage in reversed(list(enumerate(pipeline.stages))):
        known = [variable for variable in stage.owned if id(variable) in gradients]
        with tf.name_scope(f"reduce{s}"), _place(pipeline, row, s):
            local = [zeroed(_total(gradients[id(v)]), rows) for v in known]
            if dense and not alone:
                local = [_dense(gradient, v) for gradient, v in zip(local, known, strict=True)]
            pieces = [piece for gradient in local for piece in _travelling(gradient)]
            sent = compressed(pieces, way)
            changes = _changes(stage, s, executor, rows)
            along = [] if numbers or alone else [_flat(report, sent)]
            sums = placement.communicators[s].all_reduce([*sent, *changes, *along])
            arrived = iter(restored([local_copy(value) for value in sums[: len(sent)]], pieces))
            total = [_arrived(gradient, arrived) for gradient in local]
        result.update(zip(map(id, known), total, strict=True))
        states.insert(0, sums[len(sent) : len(sent) + len(changes)])
        numbers = numbers or sums[len(sent) + len(changes) :]
    with tf.device(row[-1]):
        return Sums(result, states, report if alone else _unflat(numbers[0], report))


def reduced_state(
    pipeline: Pipeline, placement: Placement, row: tuple[str, ...], executor: Executor, rows: Rows, report: Report
) -> Sums:
    """Sum the changes of state alone, as `predict` leaves them; seldom are there any, and then nothing is exchanged."""
    if any(_changes(stage, s, executor, rows) for s, stage in enumerate(pipeline.stages)):
        return reduced(pipeline, placement, row, executor, rows, {}, report)
    return Sums({}, [[] for _ in pipeline.stages], report)


def _changes(stage: Stage, s: int, executor: Executor, rows: Rows) -> list[tf.Tensor]:
    """Return by how much this replica's rows change what the replicas have to add up of a stage's state."""
    return stage.state.changes(
        executor.start[s], executor.ends[s], executor.state_rules[s].rules, executor.counts, rows.count
    )


def _flat(report: Report, beside: list[Any]) -> tf.Tensor:
    """Return a report as one vector, of a dtype in which it can travel together with gradients.

    float64 holds sums as exactly as can be; float32 as exactly as the losses and metrics of a float32 model are. A
    model of both, as Keras's LoRA makes of a float64 one, reports in float64.
    """
    dtypes = {gradient.dtype for gradient in beside}
    dtype = tf.float32 if tf.float32 in dtypes and tf.float64 not in dtypes else tf.float64
    values = [report.rows, report.replicas, *report.terms, *report.metrics, *report.loss_state]
    return tf.concat([tf.reshape(tf.cast(value, dtype), [-1]) for value in values], 0)


def _unflat(numbers: tf.Tensor, like: Report) -> Report:
    values = [like.rows, like.replicas, *like.terms, *like.metrics, *like.loss_state]
    parts = tf.split(numbers, [value.shape.num_elements() for value in values])
    whole = [tf.cast(tf.reshape(part, value.shape), value.dtype) for part, value in zip(parts, values, strict=True)]
    end = 2 + len(like.terms)
    last = end + len(like.metrics)
    return Report(whole[0], whole[1], whole[2:end], whole[end:last], whole[last:])


def _place(pipeline: Pipeline, row: tuple[str, ...], s: int) -> AbstractContextManager[Any]:
    return colocate_with_inputs() if pipeline.placed else tf.device(row[s])


def _total(gradients: list[Any]) -> Any:
    """Add what the stages give of one variable: all tensors, or all slices."""
    return joined(gradients) if isinstance(gradients[0], SlicedGradient) else add(gradients)


def _travelling(gradient: Any) -> list[Any]:
    return gradient.travelling() if isinstance(gradient, SlicedGradient) else [gradient]


def _arrived(gradient: Any, sums: Iterator[Any]) -> Any:
    """Return the sum of a gradient as the optimizer takes it."""
    return gradient.arrived(sums).whole() if isinstance(gradient, SlicedGradient) else next(sums)


def _dense(gradient: Any, variable: keras.Variable) -> Any:
    """Return slices of a small variable as a tensor: one sum in place of several gathered tensors.

    The variable alone decides, because every replica has to decide alike.
    """
    if not isinstance(gradient, SlicedGradient):
        return gradient
    whole = gradient.whole()
    small = math.prod(variable.shape) * whole.dtype.size <= _SMALL
    return tf.convert_to_tensor(whole) if small else gradient


def counted(rows: Rows) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a replica's number of rows, and whether there are any."""
    return tf.constant(float(rows.count), tf.float64), tf.constant(float(rows.count > 0), tf.float64)


def zeroed(value: Any, rows: Rows) -> Any:
    """Zero what an empty share gave: its row of zeros may have made NaN."""
    if rows.count:
        return value
    return value.zeroed() if isinstance(value, SlicedGradient) else tf.zeros_like(value)
