"""Writes the variables that layers change in their calls: state, and weights that they assign."""

from collections.abc import Sequence

import tensorflow as tf

from kparallel.compat.variables import copies_of, has_copy_on, has_single_copy
from kparallel.data.share import Share
from kparallel.engine.all_reduce import Sums
from kparallel.engine.loss_state import LossState
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.errors import ModelError
from kparallel.metric.additive import refuse_divided
from kparallel.stage.pipeline import called_in_two_stages
from kparallel.stage.stage import Stage
from kparallel.stage.state import End, Rule

__all__: list[str] = []


def commit(
    replica: Replica, share: Share, result: ReplicaResult, sums: Sums, loss_state: LossState | None = None
) -> None:
    """Write the weights and the state after a batch. Every replica writes the same values, except for seeds.

    Call it before the optimizer's update, which starts from the weights that layers have assigned.

    Args:
        replica: The present replica.
        share: Its rows.
        result: The result of its passes.
        sums: The sums over the replicas.
        loss_state: The state that an overridden `compute_loss` changes, or None if no loss was computed.

    Raises:
        ModelError: The values after the parts of a batch do not determine the value after the whole batch.
        PlanError: An assigned variable belongs to layers of two stages.
    """
    _check_assigned(replica, result)  # Before the first write, so that a refused step changes nothing.
    totals = (sums.report.rows, sums.report.replicas)
    for s, stage in enumerate(replica.pipeline.stages):
        with tf.device(replica.devices[s]):
            for variable, value in zip(stage.weights, result.assigned[s], strict=True):
                # A weight that one replica alone holds is written by that replica.
                if value is None:
                    continue
                if not has_single_copy(variable):
                    variable.assign(value)
                elif has_copy_on(variable, replica.devices[s]):
                    copies_of(variable)[0].assign(value)
            rules = result.rules[s].rules
            stage.state.commit(result.start[s], result.ends[s], rules, sums.states[s], totals, replica.index)
    _commit_rows(replica, share, result)
    if loss_state is not None:
        stages = enumerate(replica.pipeline.stages)
        # What layers have changed in this batch: `compute_loss`, which saw the old values, must not use it.
        changed = [variable for s, stage in stages for variable in stage.state.changed(result.ends[s])]
        with replica.on_last_device():
            loss_state.commit(sums.report.loss_state, totals, replica.parts, changed)


def _commit_rows(replica: Replica, share: Share, result: ReplicaResult) -> None:
    """Write the state that belongs to the rows, gathered from all replicas: each replica's copy holds all rows."""
    for s, stage in enumerate(replica.pipeline.stages):
        updates = stage.state.left_by_rows(result.ends[s], share.count)
        with tf.device(replica.devices[s]):
            parts = replica.communicators[s].all_gather([value for _, value in updates]) if updates else []
            for (variable, _), values in zip(updates, parts, strict=True):
                variable.assign(tf.concat(values, 0))


def _check_assigned(replica: Replica, result: ReplicaResult) -> None:
    """Refuse assignments whose values after the parts of a batch do not determine the value on one device.

    Raises:
        ModelError: A weight is assigned a value that depends on the rows, or a metric is neither a sum nor a mean over
            them.
        PlanError: An assigned variable belongs to layers of two stages.
    """
    stages, parts = replica.pipeline.stages, replica.parts
    for s, stage in enumerate(stages):
        assigned = [w for w, value in enumerate(result.assigned[s]) if value is not None]
        for w in assigned:
            if parts > 1 and result.rules[s].divided[w]:
                raise ModelError(
                    f"Weight {stage.weights[w].path!r} is trainable, and is assigned while its layer is called a "
                    f"value that depends on the batch's rows or is random, which the {parts} parts of a batch do not "
                    "have alike. Use one replica and one microbatch, or compute it from weights alone."
                )
        _check_metrics(stage, result.ends[s], result.rules[s].rules, parts)
        # A stage reads its variables once, before the batch: another stage that reads a changed one has the old value.
        changed = [*(stage.weights[w] for w in assigned), *stage.state.changed(result.ends[s])]
        for variable in changed:
            for other, reader in enumerate(stages):
                if other != s and any(variable is each for each in (*reader.weights, *reader.state.variables)):
                    raise called_in_two_stages(variable, min(s, other), max(s, other))


def _check_metrics(stage: Stage, ends: Sequence[End], rules: Sequence[Rule], parts: int) -> None:
    """Refuse a metric that a layer updates in its call with anything but a sum or a mean over the rows."""
    # A change that is neither has the rule CHAIN.
    chained = {
        id(variable)
        for variable, value, rule in zip(stage.state.variables, ends[-1], rules, strict=True)
        if value is not None and rule is Rule.CHAIN
    }
    for metric in stage.metrics:
        if parts > 1 and any(id(variable) in chained for variable in metric.variables):
            raise refuse_divided(metric, "a layer's call", "Update it in the model's compute_metrics.")
