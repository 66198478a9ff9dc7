"""The all-reduce after the backward pass: gradients, changes of state and the report, summed over the replicas."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import Communicator, add, local_copy
from kparallel.comm.compression import compressed, restored
from kparallel.data.share import Share
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.report import Report
from kparallel.engine.sparse_gradients import MicrobatchSlices, SlicedGradient, joined
from kparallel.stage.stage import Stage

__all__: list[str] = []

Sort = Callable[[int, int], SlicedGradient]  # From a stage and the index of one of its weights.

# Bytes of a variable up to which its gradient is summed as a dense tensor, rather than gathered as slices.
_SMALL = 2**22


@dataclass(frozen=True)
class Sums:
    """The sums over the replicas, equal on each of them.

    Args:
        gradients: By the id of the variable; of a sharded optimizer they are right on the variable's owner alone.
        states: `[s]`: the changes of state, in the order of `State.changes`.
        report: The report of the whole batch.
    """

    gradients: dict[int, Any]
    states: list[list[tf.Tensor]]
    report: Report


def gradients_of(replica: Replica, result: ReplicaResult, sort: Sort) -> dict[int, list[Any]]:
    """Return this replica's gradients by the id of the variable: a list of tensors, or a list of `SlicedGradient`s.

    A list has one gradient from each stage that reads the variable; tied weights are read by several. If one of them is
    a tensor, all of them become tensors, since slices and a tensor add up to a tensor on one device too.

    Args:
        replica: The present replica.
        result: The result of its passes.
        sort: Sorts the slices of a weight by their kind.
    """
    # By variable: (stage, index of the weight in it, gradient) of each stage that reads it.
    parts: dict[int, list[tuple[int, int, Any]]] = {}
    for s, (stage, gradients) in enumerate(zip(replica.pipeline.stages, result.gradients, strict=True)):
        for w, (variable, gradient) in enumerate(zip(stage.weights, gradients, strict=True)):
            if gradient is not None:
                parts.setdefault(id(variable), []).append((s, w, gradient))

    def as_travels(s: int, w: int, gradient: Any, sliced: bool) -> Any:
        if not isinstance(gradient, MicrobatchSlices):
            return gradient
        with tf.name_scope(f"reduce{s}"), replica.stage_devices[s].reduction():
            return sort(s, w) if sliced else gradient.dense()

    gradients_by_variable = {}
    for variable, of_stages in parts.items():
        sliced = all(isinstance(gradient, MicrobatchSlices) for _, _, gradient in of_stages)
        gradients_by_variable[variable] = [as_travels(*part, sliced) for part in of_stages]
    return gradients_by_variable


def all_reduce(
    replica: Replica,
    share: Share,
    result: ReplicaResult,
    gradients: dict[int, list[Any]],
    report: Report,
    dense: bool = False,
    owners: Mapping[int, int] | None = None,
) -> Sums:
    """Sum each stage's gradients and changes of state over its column, the last stage's first: it is ready first.

    ```text
    stage 1:  [ gradients | changes of state | report ]  ─► all_reduce over column 1
    stage 0:  [ gradients | changes of state ]           ─► all_reduce over column 0
    ```

    Each stage is one call. The report travels with the last stage's call, so it costs no collective of its own.

    Args:
        replica: The present replica.
        share: Its rows.
        result: The result of its passes.
        gradients: The result of `gradients_of`; empty for an evaluation step.
        report: This replica's report.
        dense: Whether the slices of small variables may become dense tensors.
        owners: By the id of a weight, the replica that needs its gradient; default all of them do.
    """
    summed: dict[int, Any] = {}
    states: list[list[tf.Tensor]] = []
    total = report
    # From the last stage to the first: the order in which their backward passes end. The reduction of a later stage
    # runs while earlier stages still compute.
    stages = list(enumerate(replica.pipeline.stages))
    for s, stage in reversed(stages):
        # A tied weight is summed once, with the stage that owns it.
        variables = [variable for variable in stage.owned if id(variable) in gradients]
        with tf.name_scope(f"reduce{s}"), replica.stage_devices[s].reduction():
            local = [zeroed(_total(gradients[id(variable)], variable), share) for variable in variables]
            if dense and not replica.is_single:
                local = [_dense(gradient, variable) for gradient, variable in zip(local, variables, strict=True)]
            # Every replica sends the same list. Its order is the key by which the sums are taken apart again:
            #   [piece of gradient 0, piece of gradient 0, piece of gradient 1, ... | change 0, ... | report]
            pieces = [piece for gradient in local for piece in _pieces(gradient)]
            sent = compressed(pieces, None if replica.is_single else replica.compression)
            changes = _changes(stage, s, result, share)
            # The last stage's device holds the report.
            carries_report = stage is stages[-1][1] and not replica.is_single
            reports = [report.vector(_report_dtype(sent))] if carries_report else []
            to = None if owners is None else _owners_of_pieces(variables, local, owners)
            sums = iter(_column_sums(replica.communicators[s], sent, to, [*changes, *reports]))
            arrived = iter(restored([local_copy(next(sums)) for _ in sent], pieces))
            summed |= {id(v): _from_pieces(gradient, arrived) for v, gradient in zip(variables, local, strict=True)}
            # `sums` has given the gradients; the changes of state follow, and the report is last.
            states.insert(0, [next(sums) for _ in changes])
        if carries_report:
            with replica.on_last_device():
                total = report.from_vector(next(sums))
    return Sums(summed, states, total)


def _owners_of_pieces(
    variables: Sequence[keras.Variable], local: Sequence[Any], owners: Mapping[int, int]
) -> list[int]:
    """Return for each piece of the gradients of a stage the replica that needs its sum."""
    pairs = zip(variables, local, strict=True)
    return [owners.get(id(variable), 0) for variable, gradient in pairs for _ in _pieces(gradient)]


def _column_sums(
    communicator: Communicator, sent: list[Any], to: Sequence[int] | None, others: list[tf.Tensor]
) -> Sequence[Any]:
    """Return sums over a column: of the pieces of gradients, each on its owner alone if there is one, and of others.

    Args:
        communicator: That of the column.
        sent: The pieces.
        to: For each piece the replica that needs its sum; None for all of them.
        others: What every replica needs.
    """
    if to is None:
        return communicator.all_reduce([*sent, *others])
    return [*communicator.reduce(sent, to), *communicator.all_reduce(others)]


def all_reduce_state(replica: Replica, share: Share, result: ReplicaResult, report: Report) -> Sums:
    """Sum the changes of state after `predict`. Few layers change state there; without any nothing is sent."""
    stages = replica.pipeline.stages
    if any(_changes(stage, s, result, share) for s, stage in enumerate(stages)):
        return all_reduce(replica, share, result, {}, report)
    return Sums({}, [[] for _ in stages], report)


def _changes(stage: Stage, s: int, result: ReplicaResult, share: Share) -> list[tf.Tensor]:
    """Return this replica's changes of those variables of a stage's state that are summed over the replicas."""
    rules = result.rules[s].rules
    return stage.state.changes(result.start[s], result.ends[s], rules, result.counts, share.count)


def _report_dtype(gradients: list[Any]) -> tf.DType:
    """Return the dtype in which the report travels.

    Tensors of one dtype share a pack, so the report takes the dtype of the gradients. float32 is as exact as the losses
    and metrics of a float32 model. A model with gradients of both dtypes (a float64 model with Keras's LoRA) reports in
    float64.
    """
    dtypes = {gradient.dtype for gradient in gradients}
    return tf.float32 if tf.float32 in dtypes and tf.float64 not in dtypes else tf.float64


def _total(gradients: list[Any], variable: keras.Variable) -> Any:
    """Add the gradients of one variable from several stages: all tensors, or all `SlicedGradient`s."""
    if isinstance(gradients[0], SlicedGradient):
        return joined(gradients)
    total = add(gradients)
    return _shaped(total, variable) if isinstance(total, tf.Tensor) else total


def _shaped(gradient: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
    """Return a gradient with its variable's shape, which the graph of a sparse input or of a lookup may not tell."""
    gradient.set_shape(variable.shape)
    return gradient


def _pieces(gradient: Any) -> list[Any]:
    """Return the tensors and slices of a gradient that are all-reduced."""
    return gradient.pieces() if isinstance(gradient, SlicedGradient) else [gradient]


def _from_pieces(gradient: Any, sums: Iterator[Any]) -> Any:
    """Return the sum of a gradient over the replicas, in the form that Keras's optimizers take."""
    return gradient.from_pieces(sums).whole() if isinstance(gradient, SlicedGradient) else next(sums)


def _dense(gradient: Any, variable: keras.Variable) -> Any:
    """Return the slices of a small variable as a dense tensor: one sum in place of several all-gathers.

    Only the variable's size decides, not the number of slices: every replica has to launch the same collectives.
    """
    if not isinstance(gradient, SlicedGradient):
        return gradient
    slices = gradient.whole()
    if math.prod(variable.shape) * slices.dtype.size > _SMALL:
        return gradient
    return _shaped(tf.convert_to_tensor(slices), variable)


def zeroed(value: Any, share: Share) -> Any:
    """Return a value, or zeros if the share is empty: its padding row must not count, and may have given NaN."""
    if share.count:
        return value
    return value.zeroed() if isinstance(value, SlicedGradient) else tf.zeros_like(value)
