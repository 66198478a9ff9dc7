"""What the forward and backward passes of one replica's share of a batch leave, before replicas communicate."""

from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from kparallel.stage.stage import StateRules
from kparallel.stage.state import End

__all__: list[str] = []


@dataclass(frozen=True)
class ReplicaResult:
    """What one replica's share leaves. `s` is a stage, `m` a microbatch; `w` and `v` count a stage's weights and state.

    Args:
        counts: `[m]`: how many rows each microbatch has.
        weights: `[s][w]`: the weights before the batch.
        start: `[s][v]`: the state before the batch.
        ends: `[s][m][v]`: the state after each microbatch, None where a call does not change it.
        assigned: `[s][w]`: what a call assigned to a weight, None to most.
        rules: `[s]`: how parts of a batch go together in what the calls change.
        gradients: `[s][w]`: a tensor or `MicrobatchSlices`, None where the losses do not depend on the weight.
        overwritten: `[s]`: by `w`, the new value of a weight that is overwritten with its gradient.
        differentiated: `[s]`: whether the losses depend on each leaf of `differentiable_leaves` of the outputs.
    """

    counts: tuple[int, ...]
    weights: list[list[tf.Tensor]]
    start: list[list[tf.Tensor]]
    ends: list[list[End]]
    assigned: list[End]
    rules: list[StateRules]
    gradients: list[list[Any]]
    overwritten: list[dict[int, tf.Tensor]]
    differentiated: list[list[bool]]

    def weight(self, s: int, w: int) -> tf.Tensor:
        """Return a weight as it is after the forward passes, in which layers may have assigned it."""
        assigned = self.assigned[s][w]
        return self.weights[s][w] if assigned is None else assigned

    def with_gradients(self, gradients: list[list[Any]]) -> "ReplicaResult":
        """Return this result with other gradients."""
        return replace(self, gradients=gradients)
