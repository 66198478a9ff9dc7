"""The all-reduce after the backward pass: gradients, changes of state and the report, summed over the replicas."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import add, local_copy
from kparallel.comm.compression import compressed, restored
from kparallel.data.share import Share
from kparallel.engine.colocate import colocate_with_inputs
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.report import Report
from kparallel.engine.sparse_gradients import MicrobatchSlices, SlicedGradient, joined
from kparallel.stage.stage import Stage

__all__: list[str] = []

Sort = Callable[[int, int], SlicedGradient]

_SMALL = 2**22  # Bytes of a variable whose gradient is rather summed whole than gathered in slices.


@dataclass(frozen=True)
class Sums:
    """What the replicas have summed.

    Args:
        gradients: The gradient of each variable by its id.
        states: `[stage]`: the changes of state.
        report: What is reported.
    """

    gradients: dict[int, Any]
    states: list[list[tf.Tensor]]
    report: Report


def gradients_of(replica: Replica, result: ReplicaResult, sort: Sort) -> dict[int, list[Any]]:
    """Return this replica's gradients of each variable by its id: tensors, or else `SlicedGradient`s.

    Tied weights have one from each stage that reads them. Slices and tensors of one variable add up to a tensor, as
    they do on one device.

    Args:
        replica: This one.
        result: What its passes left.
        sort: Sorts the slices of a weight, by its stage and index.
    """
    parts: dict[int, list[tuple[int, int, Any]]] = {}
    for s, (stage, gradients) in enumerate(zip(replica.pipeline.stages, result.gradients, strict=True)):
        for w, (variable, gradient) in enumerate(zip(stage.weights, gradients, strict=True)):
            if gradient is not None:
                parts.setdefault(id(variable), []).append((s, w, gradient))

    def one(s: int, w: int, gradient: Any, sliced: bool) -> Any:
        if not isinstance(gradient, MicrobatchSlices):
            return gradient
        with tf.name_scope(f"reduce{s}"), _at_stage(replica, s):
            return sort(s, w) if sliced else gradient.dense()

    gradients_by_variable = {}
    for variable, found in parts.items():
        sliced = all(isinstance(gradient, MicrobatchSlices) for _, _, gradient in found)
        gradients_by_variable[variable] = [one(*each, sliced) for each in found]
    return gradients_by_variable


def all_reduce(
    replica: Replica,
    share: Share,
    result: ReplicaResult,
    gradients: dict[int, list[Any]],
    report: Report,
    dense: bool = False,
) -> Sums:
    """Sum each stage's gradients and changes of state over its column, the last stage's first: it is ready first.

    ```text
    stage 1:  [ gradients | changes of state | report ]  ─► all_reduce over column 1
    stage 0:  [ gradients | changes of state ]           ─► all_reduce over column 0
    ```

    The report goes with the last stage's, so that one collective is all that a step of one stage waits for.

    Args:
        replica: This one.
        share: Its rows.
        result: What its passes left.
        gradients: As `gradients_of` returns them; none to evaluate.
        report: This replica's.
        dense: Whether `tf.IndexedSlices` may become tensors; those of small variables do.
    """
    summed: dict[int, Any] = {}
    states: list[list[tf.Tensor]] = []
    report_vector: tf.Tensor | None = None
    for s, stage in reversed(list(enumerate(replica.pipeline.stages))):
        variables = [variable for variable in stage.owned if id(variable) in gradients]
        with tf.name_scope(f"reduce{s}"), _at_stage(replica, s):
            local = [zeroed(_total(gradients[id(variable)]), share) for variable in variables]
            if dense and not replica.is_single:
                local = [_dense(gradient, variable) for gradient, variable in zip(local, variables, strict=True)]
            pieces = [piece for gradient in local for piece in _pieces(gradient)]
            sent = compressed(pieces, None if replica.is_single else replica.compression)
            changes = _changes(stage, s, result, share)
            carries_report = report_vector is None and not replica.is_single
            reports = [report.vector(_report_dtype(sent))] if carries_report else []
            sums = iter(replica.communicators[s].all_reduce([*sent, *changes, *reports]))
            arrived = iter(restored([local_copy(next(sums)) for _ in sent], pieces))
            summed |= {id(v): _from_pieces(gradient, arrived) for v, gradient in zip(variables, local, strict=True)}
            states.insert(0, [next(sums) for _ in changes])
        if carries_report:
            report_vector = next(sums)
    with replica.on_last_device():
        return Sums(summed, states, report if report_vector is None else report.from_vector(report_vector))


def all_reduce_state(replica: Replica, share: Share, result: ReplicaResult, report: Report) -> Sums:
    """Sum the changes of state alone, as `predict` leaves them; seldom are there any, and then nothing is sent."""
    stages = replica.pipeline.stages
    if any(_changes(stage, s, result, share) for s, stage in enumerate(stages)):
        return all_reduce(replica, share, result, {}, report)
    return Sums({}, [[] for _ in stages], report)


def _changes(stage: Stage, s: int, result: ReplicaResult, share: Share) -> list[tf.Tensor]:
    """Return by how much this replica's rows change what the replicas have to add up of a stage's state."""
    rules = result.rules[s].rules
    return stage.state.changes(result.start[s], result.ends[s], rules, result.counts, share.count)


def _report_dtype(gradients: list[Any]) -> tf.DType:
    """Return a dtype in which a report can travel together with gradients.

    float64 holds sums as exactly as can be; float32 as exactly as the losses and metrics of a float32 model are. A
    model of both, as Keras's LoRA makes of a float64 one, reports in float64.
    """
    dtypes = {gradient.dtype for gradient in gradients}
    return tf.float32 if tf.float32 in dtypes and tf.float64 not in dtypes else tf.float64


def _at_stage(replica: Replica, s: int) -> AbstractContextManager[Any]:
    return colocate_with_inputs() if replica.pipeline.placed else tf.device(replica.devices[s])


def _total(gradients: list[Any]) -> Any:
    """Add what the stages give of one variable: all tensors, or all slices."""
    return joined(gradients) if isinstance(gradients[0], SlicedGradient) else add(gradients)


def _pieces(gradient: Any) -> list[Any]:
    """Return what travels of a gradient."""
    return gradient.pieces() if isinstance(gradient, SlicedGradient) else [gradient]


def _from_pieces(gradient: Any, sums: Iterator[Any]) -> Any:
    """Return the sum of a gradient over the replicas, as the optimizer takes it."""
    return gradient.from_pieces(sums).whole() if isinstance(gradient, SlicedGradient) else next(sums)


def _dense(gradient: Any, variable: keras.Variable) -> Any:
    """Return slices of a small variable as a tensor: one sum in place of several gathered tensors.

    The variable alone decides, because every replica has to decide alike.
    """
    if not isinstance(gradient, SlicedGradient):
        return gradient
    whole = gradient.whole()
    small = math.prod(variable.shape) * whole.dtype.size <= _SMALL
    return tf.convert_to_tensor(whole) if small else gradient


def zeroed(value: Any, share: Share) -> Any:
    """Zero what an empty share gave: its row of zeros may have made NaN."""
    if share.count:
        return value
    return value.zeroed() if isinstance(value, SlicedGradient) else tf.zeros_like(value)
