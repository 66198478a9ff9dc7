"""What a device holds where the replicas share out the optimizer, or the weights too."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kparallel.schedule import in_flight

if TYPE_CHECKING:
    from kparallel.planning.plan import Plan

__all__: list[str] = []


@dataclass(frozen=True)
class Shares:
    """The bytes on one device.

    Args:
        weights: Of the weights between steps.
        slots: Of the optimizer's slots.
        brought: Of the weights that are brought for two actions in a row, at most; 0 if each replica has all weights.
        gradients: At the peak of a step: those of two stages and the sums of this device's weights, or all with several
            microbatches or where each replica has all weights.
        activations: At the peak of a step.
    """

    weights: float
    slots: float
    brought: float
    gradients: float
    activations: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.weights + self.slots + self.brought + self.gradients + self.activations


def shares(plan: "Plan") -> Shares:
    """Return what the fullest device holds under a plan whose `shard` is not None.

    No weight is divided, so a device holds an equal part, and at least the largest weight.
    """
    lanes: dict[int, list[int]] = {}
    for stage, lane in enumerate(plan.lanes[: len(plan.groups)]):
        lanes.setdefault(lane, []).append(stage)
    return max((_of_lane(plan, stages) for stages in lanes.values()), key=lambda each: each.total)


def _of_lane(plan: "Plan", stages: list[int]) -> Shares:
    groups = [plan.groups[stage] for stage in stages]
    activations = _activations(plan, stages)
    trained = [group.weight_bytes - group.frozen_bytes for group in groups]
    frozen = sum(group.frozen_bytes for group in groups)
    if plan.shard == "optimizer":
        held = owned(sum(trained), max(group.largest_bytes for group in groups), plan.replicas)
        return Shares(frozen + sum(trained), plan.slots * held, 0, sum(trained), activations)
    largest = max(group.largest_bytes for group in groups)
    return shared_weights(trained, frozen, largest, activations, plan.replicas, plan.slots, plan.microbatches)


def owned(trained: float, largest: float, replicas: int) -> float:
    """Return the bytes of weights that one of the owners has: an equal part, and at least the largest weight."""
    return max(trained / replicas, largest)


def shared_weights(
    trained: Sequence[float],
    frozen: float,
    largest: float,
    activations: float,
    replicas: int,
    slots: float,
    microbatches: int,
) -> Shares:
    """Return what a device holds that runs all stages, whose weights are brought to it.

    Args:
        trained: Bytes of the trained weights, by stage.
        frozen: Bytes of the weights that are not trained, of all stages.
        largest: Bytes of the largest trained weight.
        activations: Bytes of the activations at the peak.
        replicas: The number of replicas that share the weights out.
        slots: The number of optimizer variables for each weight.
        microbatches: The number of microbatches.

    Example:
        >>> shared_weights([100, 100, 100], 0, 50, 10, replicas=3, slots=2, microbatches=1)
        Shares(weights=100.0, slots=200.0, brought=200, gradients=300.0, activations=10)
    """
    held = owned(sum(trained), largest, replicas)
    # The stage that runs, and the next one, whose weights travel meanwhile.
    brought = max((one + other for one, other in pairwise(trained)), default=trained[0])
    gradients = min(brought + held, sum(trained)) if microbatches == 1 else sum(trained)
    return Shares(frozen + held, slots * held, brought, gradients, activations)


def _activations(plan: "Plan", stages: list[int]) -> float:
    """Return the bytes of activations on a lane at the peak."""
    of_stages = [float(plan.memory(stage).activations) for stage in stages]
    flying = in_flight(plan.programs())
    inputs = [plan.rows_per_microbatch * plan.groups[s].arriving_bytes_per_row * flying[s] for s in stages]
    return at_once(plan.recompute, of_stages, inputs)


def at_once(recompute: str, activations: Sequence[float], inputs: Sequence[float]) -> float:
    """Return the bytes of activations that the stages of one device hold at the peak.

    Args:
        recompute: As of the plan.
        activations: Bytes of each stage at its own peak.
        inputs: Bytes of each stage's inputs that wait for their backward passes.

    Example:
        >>> at_once("never", [5.0, 7.0], [1.0, 2.0]), at_once("always", [5.0, 7.0], [1.0, 2.0])
        (12.0, 8.0)
    """
    if recompute != "always":
        return sum(activations)
    # The inputs of all stages stay, and one stage at a time has been run again.
    return sum(inputs) + max(whole - kept for whole, kept in zip(activations, inputs, strict=True))
