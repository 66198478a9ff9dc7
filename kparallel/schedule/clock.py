"""Simulates a schedule: the start and end time of each action."""

from collections.abc import Sequence
from dataclasses import dataclass

from kparallel.errors import ScheduleError
from kparallel.schedule.action import BACKWARD, FORWARD, WEIGHT, Action, Programs

__all__: list[str] = []


@dataclass(frozen=True)
class Clock:
    """The times of all actions of a schedule.

    Args:
        start: The start time of each action, in topological order.
        finish: The end time of each action.
        lanes: The number of lanes.
    """

    start: dict[Action, float]
    finish: dict[Action, float]
    lanes: int

    @property
    def makespan(self) -> float:
        """The time from the first start to the last end."""
        return max(self.finish.values(), default=0.0)

    @property
    def bubble(self) -> float:
        """The fraction of the lanes' time that is idle, from 0 to 1."""
        # The lanes' time is a rectangle, lanes x makespan. What the actions do not fill of it is idle.
        busy = sum(self.finish[action] - self.start[action] for action in self.start)
        return 1 - busy / (self.lanes * self.makespan) if self.makespan else 0.0


def clock(
    programs: Programs,
    forward: float | Sequence[float] = 1.0,
    backward: float | Sequence[float] = 1.0,
    weight: float | Sequence[float] = 1.0,
    *,
    transfer: float = 0.0,
) -> Clock:
    """Compute the times of all actions. Each starts as soon as its lane is free and its inputs are there.

    Args:
        programs: One program per lane.
        forward: The time of a forward pass on one microbatch, in any unit: one number, or one per stage. Default 1.
        backward: The time of a backward pass, likewise; where it is split, of its part `B`. Default 1.
        weight: The time of the part `W` of a split backward pass, likewise. Default 1.
        transfer: The time between the end of an action and the start of one on another lane that reads its result.
            Default 0.

    Returns:
        The times.

    Raises:
        ScheduleError: The programs deadlock.

    Example:
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> times = clock(one_f_one_b(4, 8), forward=1, backward=2)
        >>> times.makespan, round(times.bubble, 3)
        (33.0, 0.273)
    """
    lane_of = {action: lane for lane, program in enumerate(programs) for action in program}
    stages = 1 + max((action.stage for action in lane_of), default=-1)
    # In topological order the end of everything that an action reads is known before the action's start is computed.
    order, _ = progress(programs)
    if len(order) < len(lane_of):
        raise ScheduleError("The programs deadlock, so they take no time that can be told: check them first.")
    start: dict[Action, float] = {}
    finish: dict[Action, float] = {}
    free = [0.0] * len(programs)
    costs = {FORWARD: forward, BACKWARD: backward, WEIGHT: weight}
    for action in order:
        lane = lane_of[action]
        # A result that is read on the lane that made it does not travel.
        ready = [finish[need] + transfer * (lane_of[need] != lane) for need in action.needs(stages)]
        # `cost[stage]`, or one number for all stages.
        cost = costs[action.kind]
        start[action] = max(free[lane], *ready) if ready else free[lane]
        free[lane] = start[action] + (cost[action.stage] if isinstance(cost, Sequence) else cost)
        finish[action] = free[lane]
    return Clock(start, finish, len(programs))


def linear_order(programs: Programs) -> tuple[Action, ...]:
    """Merge the programs of all lanes into one topological order that keeps the order of every lane.

    Args:
        programs: One program per lane.

    Returns:
        All actions, sorted by their start when each action takes one tick, then by lane.

    Raises:
        ScheduleError: The programs deadlock.

    Example:
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> " ".join(map(str, linear_order(one_f_one_b(2, 2))))
        '0F0 0F1 1F0 1B0 0B0 1F1 1B1 0B1'
    """
    start = clock(programs).start
    lane_of = {action: lane for lane, program in enumerate(programs) for action in program}
    # Python traces the actions of all lanes one by one. In the order of their starts, what TensorFlow is given first
    # is also what can run first. Ties go by lane, so that every worker traces the same order.
    return tuple(sorted(start, key=lambda action: (start[action], lane_of[action])))


def progress(programs: Programs) -> tuple[list[Action], list[int]]:
    """Simulate the lanes until all are done or blocked.

    Args:
        programs: One program per lane.

    Returns:
        The actions that could run, in a topological order, and their number for each lane. All actions can run, unless
        the programs deadlock.
    """
    stages = 1 + max((action.stage for program in programs for action in program), default=-1)
    done: set[Action] = set()
    order: list[Action] = []
    # `position[lane]` is the index of the lane's next action.
    position = [0] * len(programs)
    # Sweep over the lanes until no lane can go on. A lane is blocked when its next action reads a result that is not
    # there yet; the sweep in which nothing moves is the end, or a deadlock.
    moved = True
    while moved:
        moved = False
        for lane, program in enumerate(programs):
            while position[lane] < len(program) and done.issuperset(program[position[lane]].needs(stages)):
                order.append(program[position[lane]])
                done.add(order[-1])
                position[lane] += 1
                moved = True
    return order, position
