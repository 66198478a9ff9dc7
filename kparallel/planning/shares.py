"""What a device holds where the replicas share out the optimizer, or the weights too."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kparallel.planning.plan import LayerGroup, Plan

__all__: list[str] = []


@dataclass(frozen=True)
class Shares:
    """The bytes on one device.

    Args:
        weights: Of the weights between steps.
        slots: Of the optimizer's slots.
        brought: Of the weights that are brought for two actions in a row, at most; 0 if each replica has all weights.
    """

    weights: float
    slots: float
    brought: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.weights + self.slots + self.brought


def shares(plan: "Plan") -> Shares:
    """Return what the fullest device holds under a plan whose `shard` is not None.

    No weight is divided, so a device holds an equal part, and at least the largest weight.
    """
    lanes: dict[int, list[LayerGroup]] = {}
    for lane, group in zip(plan.lanes, plan.groups, strict=True):
        lanes.setdefault(lane, []).append(group)
    return max((_of_lane(plan, groups) for groups in lanes.values()), key=lambda each: each.total)


def _of_lane(plan: "Plan", groups: "list[LayerGroup]") -> Shares:
    trained = [group.weight_bytes - group.frozen_bytes for group in groups]
    # Of all trained bytes of the lane's stages:
    held = max(sum(trained) / plan.replicas, *(group.largest_bytes for group in groups))
    if plan.shard == "optimizer":
        return Shares(sum(group.weight_bytes for group in groups), plan.slots * held, 0)
    brought = max((one + other for one, other in pairwise(trained)), default=trained[0])
    return Shares(sum(group.frozen_bytes for group in groups) + held, plan.slots * held, brought)
