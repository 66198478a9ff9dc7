"""The result of one replica's forward and backward passes over its share of a batch, before any all-reduce."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from kparallel.engine.replica import Replica
from kparallel.engine.stage_weights import StageWeights
from kparallel.stage.stage import StateRules
from kparallel.stage.state import End

__all__: list[str] = []


@dataclass(frozen=True)
class ReplicaResult:
    """The result of one replica's passes.

    Axes: `s` is a stage, `m` a microbatch, `w` an index into `Stage.weights`, `v` one into `Stage.state.variables`.

    Args:
        counts: `[m]`: the number of rows of each microbatch.
        weights: The weights before the batch.
        start: `[s][v]`: the state before the batch.
        ends: `[s][m][v]`: the state after each microbatch, None where the call does not change it.
        assigned: `[s][w]`: the value that the forward pass assigned to a weight, None for most weights.
        rules: `[s]`: how the changes of state by several parts of a batch are combined.
        gradients: `[s][w]`: a tensor or `MicrobatchSlices`, None where the losses do not depend on the weight.
        overwritten: `[s][w]`: the new value of a weight that is overwritten with its gradient (float8).
        differentiated: `[s][leaf]`: whether a cotangent arrived for a leaf of `differentiable_leaves` of the outputs.
    """

    counts: tuple[int, ...]
    weights: StageWeights
    start: list[list[tf.Tensor]]
    ends: list[list[End]]
    assigned: list[End]
    rules: dict[int, StateRules]
    gradients: list[list[Any]]
    overwritten: list[dict[int, tf.Tensor]]
    differentiated: list[list[bool]]

    @classmethod
    def before(cls, replica: Replica, counts: Sequence[int]) -> "ReplicaResult":
        """Return the result before the first action: the executor fills in what the actions leave.

        State is read once, so that all microbatches see the same whatever is assigned meanwhile.

        Args:
            replica: Has the stages and their devices.
            counts: The number of rows of each microbatch.
        """
        stages = replica.pipeline.stages
        held, start = replica.values or (None, [])
        communicators = () if replica.is_single else replica.communicators
        weights = StageWeights(stages, replica.stage_devices, held, communicators)
        if replica.values is None:
            for s, (stage, device) in enumerate(zip(stages, replica.stage_devices, strict=True)):
                brought = weights.state_of_owners(s)
                with tf.device(device.name):
                    start.append(stage.state.read(replica.index, brought))
        return cls(
            tuple(counts),
            weights,
            start,
            ends=[[] for _ in stages],
            assigned=[[None] * len(stage.weights) for stage in stages],
            rules={},
            gradients=[[None] * len(stage.weights) for stage in stages],
            overwritten=[{} for _ in stages],
            differentiated=[[] for _ in stages],
        )

    def weight(self, s: int, w: int) -> tf.Tensor:
        """Return a weight's value after the forward passes, in which layers may have assigned it."""
        assigned = self.assigned[s][w]
        return self.weights.one(s, w) if assigned is None else assigned

    def with_gradients(self, gradients: list[list[Any]]) -> "ReplicaResult":
        """Return this result with other gradients."""
        return replace(self, gradients=gradients)
