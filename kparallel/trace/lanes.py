"""Assigns the operations of a step to lanes: one slice for each action, and the rest of the lane's work."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from kparallel.planning.plan import Plan
from kparallel.schedule import Action, Programs, gpipe
from kparallel.trace.attribution import Owner
from kparallel.trace.events import Operation, RecordedStep
from kparallel.trace.intervals import Span, length, union

__all__: list[str] = []

# An action's slice is the shortest span with this fraction of its work: single operations may run far from the others.
_MOST = 0.95


@dataclass(frozen=True)
class Lane:
    """One device of one replica.

    Args:
        replica: The index among the replicas of all workers.
        local_replica: The index among this worker's replicas.
        index: The index of the lane in its row.
        device: The name of the device.
        stages: The stages that it runs.
    """

    replica: int
    local_replica: int
    index: int
    device: str
    stages: tuple[int, ...]


@dataclass
class LaneStep:
    """The work of one lane in one step.

    Args:
        lane: The lane.
        slices: The time span of each action.
        work: The time spans in which operations of actions ran.
        reduction: The time spans of the reduction.
        update: The time spans of the update of the lane's replica.
        other: The time spans of all other operations of the lane's replica.
    """

    lane: Lane
    slices: dict[Action, Span] = field(default_factory=dict)
    work: list[Span] = field(default_factory=list)
    reduction: list[Span] = field(default_factory=list)
    update: list[Span] = field(default_factory=list)
    other: list[Span] = field(default_factory=list)

    @property
    def last(self) -> float:
        """The time at which its last action ends."""
        return max((end for _, end in self.slices.values()), default=float("-inf"))


def programs_of(plan: Plan) -> Programs:
    """Return the actions of each lane in the step. Layers that are placed by name are one stage."""
    return gpipe(1, 1) if plan.placed else plan.programs()


def lanes_of(plan: Plan, worker: int = 0) -> list[Lane]:
    """Return the lanes of one worker, replica by replica."""
    lanes = []
    for row_index, row in enumerate(plan.mesh.rows):
        replica = worker * plan.mesh.replicas + row_index
        if plan.placed:
            lanes.append(Lane(replica, row_index, 0, ", ".join(dict.fromkeys(row)), (0,)))
            continue
        for index, device in enumerate(dict.fromkeys(row)):
            stages = tuple(s for s, lane in enumerate(plan.lanes) if lane == index)
            lanes.append(Lane(replica, row_index, index, device, stages))
    return lanes


def assign_operations(
    step: RecordedStep, lanes: Iterable[Lane], owner: Callable[[Operation], Owner], alone: bool = False
) -> list[LaneStep]:
    """Assign the operations of one step to the lanes.

    Args:
        step: The recorded step.
        lanes: The lanes of this worker.
        owner: Returns the part of a step to which an operation belongs.
        alone: Whether there is only one replica on all workers.

    Returns:
        The work of each lane, in their order.
    """
    owned = [(owner(operation), operation) for operation in step.operations]
    if alone:  # A single replica has nothing to reduce.
        owned = [
            (replace(attributed, kind="other") if attributed.kind == "reduction" else attributed, o)
            for attributed, o in owned
        ]
    return [_lane_step(lane, owned) for lane in lanes]


def _lane_step(lane: Lane, owned: list[tuple[Owner, Operation]]) -> LaneStep:
    actions: dict[Action, list[Operation]] = defaultdict(list)
    in_stage: dict[Action, list[Operation]] = defaultdict(list)
    spans: dict[str, list[Span]] = {"reduction": [], "update": [], "other": []}
    for part_of_step, operation in owned:
        # `None` in place of a replica or stage means all of them.
        if part_of_step.replica not in (None, lane.local_replica) or part_of_step.stage not in (None, *lane.stages):
            continue
        if part_of_step.action is not None:
            actions[part_of_step.action].append(operation)
            if part_of_step.in_stage:
                in_stage[part_of_step.action].append(operation)
        elif part_of_step.kind in spans:
            spans[part_of_step.kind].append(operation.span)
    result = LaneStep(lane, _slices(actions, in_stage), union(o.span for part in actions.values() for o in part))
    result.reduction = union(spans["reduction"])
    # The operations of the update that depend on the learning rate only run at the start of the step, beside all
    # others.
    result.update = union(span for span in spans["update"] if span[0] >= result.last)
    result.other = union([*spans["other"], *(span for span in spans["update"] if span[0] < result.last)])
    return result


def _slices(actions: dict[Action, list[Operation]], in_stage: dict[Action, list[Operation]]) -> dict[Action, Span]:
    """Return the slice of each action: its stage's call, and most of its other work between the neighboring calls.

    ```text
    1F1: |labels|   |-- call of 1F0 --|  |-- call of 1F1 --| |loss|      `labels` runs before 1F0, so it does not count
    ```

    In a small model the other operations take as long as the calls, so only the calls show the order of the actions.
    """
    calls = {action: _slice(in_stage.get(action) or operations) for action, operations in actions.items()}
    order = sorted(calls, key=calls.__getitem__)
    # Other work of an action lies after the previous call and before the next one.
    limits = [*(calls[action][0] for action in order[1:]), float("inf")]
    slices: dict[Action, Span] = {}
    free = float("-inf")
    for action, last in zip(order, limits, strict=False):
        start, end = calls[action]
        nearby = [o for o in actions[action] if min(free, start) <= o.start < last]
        core = _slice(nearby) if nearby else calls[action]
        slices[action] = min(start, core[0]), max(end, core[1])
        free = end
    return _apart(slices)


def _slice(operations: list[Operation]) -> Span:
    """Return the shortest span that contains most of the work."""
    spans = union(operation.span for operation in operations)
    if not spans:
        return operations[0].start, operations[0].start
    # A window over the sorted spans: its right end moves on, and its left end follows as long as enough is covered.
    needed, best, first, covered = _MOST * length(spans), (spans[0][0], spans[-1][1]), 0, 0.0
    for start, end in spans:
        covered += end - start
        while covered - (spans[first][1] - spans[first][0]) >= needed:
            covered -= spans[first][1] - spans[first][0]
            first += 1
        if covered >= needed and end - spans[first][0] < best[1] - best[0]:
            best = (spans[first][0], end)
    return best


def _apart(slices: dict[Action, Span]) -> dict[Action, Span]:
    """Cut each slice at the start of the lane's next one. The slices are given in order."""
    limits = [start for start, _ in slices.values()][1:] + [float("inf")]
    return {a: (start, min(end, limit)) for (a, (start, end)), limit in zip(slices.items(), limits, strict=False)}
