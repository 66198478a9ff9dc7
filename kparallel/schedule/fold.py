"""Folds the programs of several stages onto one lane, for a mesh with a device that occurs several times in a row."""

from collections.abc import Sequence

from kparallel.errors import ScheduleError
from kparallel.schedule.action import FORWARD, WEIGHT, Action, Programs

__all__: list[str] = []


def fold(programs: Programs, lane_of_stage: Sequence[int]) -> Programs:
    """Merge the programs of stages that share a device; the order of each stage is kept.

    The order comes from a simulation in which every action takes one tick. A free lane runs that one of its stages'
    next actions that became ready first; of several, a backward pass before a forward pass, then the lowest microbatch.
    Gradients of weights, for which no action waits, come last.

    Args:
        programs: One program per stage.
        lane_of_stage: The lane of each stage, such as `[0, 1, 0, 1]`.

    Returns:
        One program per lane.

    Raises:
        ScheduleError: The programs deadlock.

    Example:
        >>> from kparallel.schedule.gpipe import gpipe
        >>> [" ".join(map(str, program)) for program in fold(gpipe(2, 2), [0, 0])]
        ['0F0 0F1 1F0 1F1 1B0 1B1 0B0 0B1']
    """
    if len(programs) != len(lane_of_stage):
        raise ScheduleError(f"Expected one program for each of {len(lane_of_stage)} stages, received {len(programs)}.")
    stages = len(programs)
    # `queues[stage]` has what the stage still has to run. `folded[lane]` has what the lane has run so far.
    queues = [list(program) for program in programs]
    folded: list[list[Action]] = [[] for _ in range(max(lane_of_stage) + 1)]
    # What the next action of each stage reads, found once: a plan may have hundreds of stages on a lane.
    needs = [queue[0].needs(stages) if queue else () for queue in queues]
    of_lane = [[s for s in range(stages) if lane_of_stage[s] == lane] for lane in range(len(folded))]
    finish: dict[Action, int] = {}
    tick = 0
    while any(queues):
        started = []
        for own, order in zip(of_lane, folded, strict=True):
            # An action that has not ended has no entry in `finish`; the default, a time after now, makes it not ready.
            ready = [s for s in own if queues[s] and all(finish.get(a, tick + 1) <= tick for a in needs[s])]
            if ready:
                chosen = min(ready, key=lambda s: _priority(queues[s][0], [finish[need] for need in needs[s]]))
                started.append(queues[chosen].pop(0))
                order.append(started[-1])
                needs[chosen] = queues[chosen][0].needs(stages) if queues[chosen] else ()
        tick += 1
        # Ends are noted after all lanes have chosen. So no lane reads in one tick what another one computes in the
        # same tick.
        finish.update(dict.fromkeys(started, tick))
        # Every action takes one tick, so at the beginning of a tick nothing runs. If then nothing can start, nothing
        # ever will.
        if not started:
            raise ScheduleError("The programs deadlock, so they cannot be folded: check them first.")
    return tuple(tuple(order) for order in folded)


def _priority(action: Action, ends: Sequence[int]) -> tuple[bool, int, bool, int]:
    ready_since = max(ends, default=0)
    return action.kind == WEIGHT, ready_since, action.kind == FORWARD, action.microbatch
