"""What a batch leaves behind: state that layers changed in their calls, and weights that they assigned."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from kparallel.engine.all_reduce import Sums
from kparallel.engine.executor import Executor
from kparallel.engine.placement import Placement
from kparallel.errors import ModelError
from kparallel.metric.additive import refuse_divided
from kparallel.stage.pipeline import Pipeline, called_in_two_stages
from kparallel.stage.stage import Stage
from kparallel.stage.state import End, Rule

__all__: list[str] = []


def commit(
    pipeline: Pipeline,
    row: Sequence[str],
    executor: Executor,
    sums: Sums,
    replica_index: int,
) -> None:
    """Write the weights and the state that a batch's forward passes leave, equal on every replica but for seeds.

    Args:
        pipeline: The stages.
        row: This replica's devices.
        executor: Has carried out the batch.
        sums: What the replicas have summed.
        replica_index: Shifts the seeds.
    """
    for s, stage in enumerate(pipeline.stages):
        with tf.device(row[s]):
            for variable, value in zip(stage.weights, executor.assigned[s], strict=True):
                if value is not None:
                    variable.assign(value)
            rules = executor.state_rules[s].rules
            whole = (sums.report.rows, sums.report.replicas)
            stage.state.commit(executor.start[s], executor.ends[s], rules, sums.states[s], whole, replica_index)


def changed_in(pipeline: Pipeline, executor: Executor) -> list[keras.Variable]:
    """Return the variables of the state that the calls of layers have changed."""
    stages = enumerate(pipeline.stages)
    return [variable for s, stage in stages for variable in stage.state.changed(executor.ends[s])]


def commit_rows(pipeline: Pipeline, placement: Placement, row: Sequence[str], executor: Executor, rows: int) -> None:
    """Write the state that belongs to rows, gathered from all replicas, so that each copy is whole.

    Args:
        pipeline: The stages.
        placement: Has each stage's communicator.
        row: This replica's devices.
        executor: Has carried out the batch.
        rows: How many this replica has.
    """
    for s, stage in enumerate(pipeline.stages):
        left = stage.state.left_by_rows(executor.ends[s], rows)
        with tf.device(row[s]):
            parts = placement.communicators[s].all_gather([value for _, value in left]) if left else []
            for (variable, _), values in zip(left, parts, strict=True):
                variable.assign(tf.concat(values, 0))


def check_assigned(pipeline: Pipeline, executor: Executor, parts: int) -> None:
    """Make sure that what the forward passes assigned is what one device's would assign.

    Args:
        pipeline: The stages.
        executor: Has carried out the batch.
        parts: Into how many shares and microbatches a batch is divided.

    Raises:
        ModelError: A weight is assigned what depends on the rows, or a metric is neither a sum nor a mean over them.
        PlanError: What is assigned belongs to layers of two stages.
    """
    for s, stage in enumerate(pipeline.stages):
        assigned = [index for index, value in enumerate(executor.assigned[s]) if value is not None]
        for index in assigned:
            if parts > 1 and executor.state_rules[s].divided[index]:
                raise ModelError(
                    f"Weight {stage.weights[index].path!r} is trainable, and is assigned while its layer is called a "
                    f"value that depends on the batch's rows or is random, which the {parts} parts of a batch do not "
                    "have alike. Use one replica and one microbatch, or compute it from weights alone."
                )
        _check_metrics(stage, executor.ends[s], executor.state_rules[s].rules, parts)
        changed = [*(stage.weights[index] for index in assigned), *stage.state.changed(executor.ends[s])]
        for variable in changed:
            for other, reader in enumerate(pipeline.stages):
                if other != s and any(variable is each for each in (*reader.weights, *reader.state.variables)):
                    raise called_in_two_stages(variable, min(s, other), max(s, other))


def _check_metrics(stage: Stage, ends: Sequence[End], rules: Sequence[Rule], parts: int) -> None:
    """Make sure that the parts of a batch leave a metric, which a layer updates in its call, as one device does."""
    chained = {
        id(variable)
        for variable, last, rule in zip(stage.state.variables, ends[-1], rules, strict=True)
        if last is not None and rule is Rule.CHAIN
    }
    for metric in stage.metrics:
        if parts > 1 and any(id(variable) in chained for variable in metric.variables):
            raise refuse_divided(metric, "a layer's call", "Update it in the model's compute_metrics.")
