"""What a batch leaves behind: state that layers changed in their calls, and weights that they assigned."""

from collections.abc import Sequence

import tensorflow as tf

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
    """Write the weights and the state that a batch leaves, equal on every replica but for seeds.

    It comes before the optimizer's update, which starts from the weights that layers have assigned.

    Args:
        replica: This one.
        share: Its rows.
        result: What its passes left.
        sums: What the replicas have summed.
        loss_state: What a model's own `compute_loss` leaves, if losses were computed.

    Raises:
        ModelError: What the parts of a batch leave is not what one device would.
        PlanError: What is assigned belongs to layers of two stages.
    """
    _check_assigned(replica, result)
    whole = (sums.report.rows, sums.report.replicas)
    for s, stage in enumerate(replica.pipeline.stages):
        with tf.device(replica.devices[s]):
            for variable, value in zip(stage.weights, result.assigned[s], strict=True):
                if value is not None:
                    variable.assign(value)
            rules = result.rules[s].rules
            stage.state.commit(result.start[s], result.ends[s], rules, sums.states[s], whole, replica.index)
    _commit_rows(replica, share, result)
    if loss_state is not None:
        stages = enumerate(replica.pipeline.stages)
        changed = [variable for s, stage in stages for variable in stage.state.changed(result.ends[s])]
        with replica.on_last_device():
            loss_state.commit(sums.report.loss_state, whole, replica.parts, changed)


def _commit_rows(replica: Replica, share: Share, result: ReplicaResult) -> None:
    """Write the state that belongs to rows, gathered from all replicas, so that each copy is whole."""
    for s, stage in enumerate(replica.pipeline.stages):
        left = stage.state.left_by_rows(result.ends[s], share.count)
        with tf.device(replica.devices[s]):
            parts = replica.communicators[s].all_gather([value for _, value in left]) if left else []
            for (variable, _), values in zip(left, parts, strict=True):
                variable.assign(tf.concat(values, 0))


def _check_assigned(replica: Replica, result: ReplicaResult) -> None:
    """Make sure that what the forward passes assigned is what one device's would assign.

    Raises:
        ModelError: A weight is assigned what depends on the rows, or a metric is neither a sum nor a mean over them.
        PlanError: What is assigned belongs to layers of two stages.
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
        changed = [*(stage.weights[w] for w in assigned), *stage.state.changed(result.ends[s])]
        for variable in changed:
            for other, reader in enumerate(stages):
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
