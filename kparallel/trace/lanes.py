"""A step laid out on the devices: one slice for each action on its lane, and what else the lane did."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from kparallel.planning.plan import Plan
from kparallel.schedule import Action, Programs, gpipe
from kparallel.trace.attribution import Owner
from kparallel.trace.events import Operation, Step
from kparallel.trace.intervals import Span, length, union

__all__: list[str] = []

# An action's slice is the shortest one that holds this part of its work: bits of it run where they find time.
_MOST = 0.95


@dataclass(frozen=True)
class Lane:
    """One device of one replica.

    Args:
        replica: Index among all replicas.
        local_replica: Index among this worker's replicas.
        index: Index of the lane in its row.
        device: Its name.
        stages: The stages that it runs.
    """

    replica: int
    local_replica: int
    index: int
    device: str
    stages: tuple[int, ...]


@dataclass
class LaneStep:
    """What one lane did in one step.

    Args:
        lane: The lane.
        slices: When each action ran.
        work: When an operation of any action ran.
        reduction: The same of the reduction.
        update: The same of the update, of the lane's replica.
        other: The same of the rest, of the lane's replica.
    """

    lane: Lane
    slices: dict[Action, Span] = field(default_factory=dict)
    work: list[Span] = field(default_factory=list)
    reduction: list[Span] = field(default_factory=list)
    update: list[Span] = field(default_factory=list)
    other: list[Span] = field(default_factory=list)

    @property
    def last(self) -> float:
        """When its last action ends."""
        return max((end for _, end in self.slices.values()), default=float("-inf"))


def programs_of(plan: Plan) -> Programs:
    """Return the actions of each lane as the step runs them: layers placed by name are one stage."""
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


def place(
    step: Step, lanes: Iterable[Lane], owner: Callable[[Operation], Owner], alone: bool = False
) -> list[LaneStep]:
    """Lay one step's operations out on the lanes.

    Args:
        step: The recorded step.
        lanes: The lanes of this worker.
        owner: Tells whose work an operation is.
        alone: Whether there is one replica on all workers together.

    Returns:
        One for each lane, in their order.
    """
    owned = [(owner(operation), operation) for operation in step.operations]
    if alone:  # Nothing is summed where there is one replica.
        owned = [(replace(whose, kind="other") if whose.kind == "reduction" else whose, o) for whose, o in owned]
    return [_lane_step(lane, owned) for lane in lanes]


def _lane_step(lane: Lane, owned: list[tuple[Owner, Operation]]) -> LaneStep:
    actions: dict[Action, list[Operation]] = defaultdict(list)
    in_stage: dict[Action, list[Operation]] = defaultdict(list)
    spans: dict[str, list[Span]] = {"reduction": [], "update": [], "other": []}
    for whose, operation in owned:
        if whose.replica not in (None, lane.local_replica) or whose.stage not in (None, *lane.stages):
            continue
        if whose.action is not None:
            actions[whose.action].append(operation)
            if whose.in_stage:
                in_stage[whose.action].append(operation)
        else:
            spans[whose.kind].append(operation.span)
    result = LaneStep(lane, _slices(actions, in_stage), union(o.span for part in actions.values() for o in part))
    result.reduction = union(spans["reduction"])
    # What an optimizer computes of the learning rate alone runs at the step's start, beside everything else.
    result.update = union(span for span in spans["update"] if span[0] >= result.last)
    result.other = union([*spans["other"], *(span for span in spans["update"] if span[0] < result.last)])
    return result


def _slices(actions: dict[Action, list[Operation]], in_stage: dict[Action, list[Operation]]) -> dict[Action, Span]:
    """Return the slice of each action: its stage's call, and most of what it does beside between its neighbors' calls.

    ```text
    1F1: |labels' bits|   |-- 1F0's call --|  |-- 1F1's call --| |loss|    The bits stand before 1F0: they do not count.
    ```

    A small model's bits take as long as its calls, so that calls alone tell the order in which actions ran.
    """
    calls = {action: _slice(in_stage.get(action) or operations) for action, operations in actions.items()}
    order = sorted(calls, key=calls.__getitem__)
    limits = [*(calls[action][0] for action in order[1:]), float("inf")]
    slices: dict[Action, Span] = {}
    free = float("-inf")
    for action, last in zip(order, limits, strict=False):
        start, end = calls[action]
        own = [o for o in actions[action] if min(free, start) <= o.start < last]
        most = _slice(own) if own else calls[action]
        slices[action] = min(start, most[0]), max(end, most[1])
        free = end
    return _apart(slices)


def _slice(operations: list[Operation]) -> Span:
    """Return the shortest span that holds most of the work."""
    spans = union(operation.span for operation in operations)
    if not spans:
        return operations[0].start, operations[0].start
    needed, best, first, held = _MOST * length(spans), (spans[0][0], spans[-1][1]), 0, 0.0
    for start, end in spans:
        held += end - start
        while held - (spans[first][1] - spans[first][0]) >= needed:
            held -= spans[first][1] - spans[first][0]
            first += 1
        if held >= needed and end - spans[first][0] < best[1] - best[0]:
            best = (spans[first][0], end)
    return best


def _apart(slices: dict[Action, Span]) -> dict[Action, Span]:
    """Let each slice end where the lane's next one starts; they come in order."""
    limits = [start for start, _ in slices.values()][1:] + [float("inf")]
    return {a: (start, min(end, limit)) for (a, (start, end)), limit in zip(slices.items(), limits, strict=False)}
