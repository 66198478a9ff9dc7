"""Checks the laws of a schedule without running it; the error shows the violation in a chart."""

from collections import Counter

from kparallel.errors import ScheduleError
from kparallel.schedule.action import BACKWARD, FORWARD, WEIGHT, Action, Programs, splits_backward
from kparallel.schedule.chart import marked
from kparallel.schedule.clock import progress

__all__: list[str] = []


def check(programs: Programs, stages: int, microbatches: int, *, backward: bool = True) -> None:
    """Refuse programs that would omit an action, repeat one, or deadlock.

    The laws:

    1. Every action of every stage and microbatch occurs once. If one backward pass is split by a `W`, all are.
    2. All actions of a stage are on one lane.
    3. No lane waits forever. `F(s, m)` reads `F(s - 1, m)`; `B(s, m)` reads `F(s, m)` and `B(s + 1, m)`;
       `W(s, m)` reads `B(s, m)`. The weights change after all programs have ended, so after every `W`.

    Args:
        programs: One program per lane.
        stages: The number of stages.
        microbatches: The number of microbatches.
        backward: Whether there are backward passes; False for `evaluate` and `predict`. Default True.

    Raises:
        ScheduleError: A law is broken. The message has a chart with a mark at the action.

    Example:
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> check(one_f_one_b(4, 8), stages=4, microbatches=8)
    """
    kinds: tuple[str, ...] = (FORWARD, BACKWARD) if backward else (FORWARD,)
    if backward and splits_backward(programs):
        kinds = (*kinds, WEIGHT)
    # In this order, as each law is stated for programs that keep the ones before: a lane can be found by its stage
    # only if each stage has one lane, and the search for a deadlock ends only if nothing is missing.
    _known(programs, stages, microbatches, kinds)
    _once(programs)
    _one_lane(programs)
    _complete(programs, stages, microbatches, kinds)
    _ends(programs)


def _told(kinds: tuple[str, ...]) -> str:
    """Return `F`, `F and B` or `F, B and W`."""
    return " and ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _refuse(text: str, programs: Programs, lane: int, position: int) -> ScheduleError:
    return ScheduleError(f"{text}\n{marked(programs, lane, position)}")


def _known(programs: Programs, stages: int, microbatches: int, kinds: tuple[str, ...]) -> None:
    for lane, program in enumerate(programs):
        for position, action in enumerate(program):
            if action.stage >= stages or action.microbatch >= microbatches or action.kind not in kinds:
                expected = f"stages 0 to {stages - 1}, microbatches 0 to {microbatches - 1} and kinds {_told(kinds)}"
                raise _refuse(f"Unknown action {action}: expected {expected}.", programs, lane, position)


def _once(programs: Programs) -> None:
    occurrences: Counter[Action] = Counter()
    for lane, program in enumerate(programs):
        for position, action in enumerate(program):
            occurrences[action] += 1
            if occurrences[action] > 1:
                raise _refuse(f"Action {action} is repeated: expected every action once.", programs, lane, position)


def _one_lane(programs: Programs) -> None:
    home: dict[int, int] = {}
    for lane, program in enumerate(programs):
        for position, action in enumerate(program):
            if home.setdefault(action.stage, lane) != lane:
                text = f"Stage {action.stage} is on lane {home[action.stage]} and on lane {lane}: expected one lane."
                raise _refuse(text, programs, lane, position)


def _complete(programs: Programs, stages: int, microbatches: int, kinds: tuple[str, ...]) -> None:
    home = {action.stage: lane for lane, program in enumerate(programs) for action in program}
    present = {action for program in programs for action in program}
    every = (Action(stage, kind, m) for stage in range(stages) for kind in kinds for m in range(microbatches))
    missing = next((action for action in every if action not in present), None)
    if missing is not None:
        text = f"Action {missing} is missing: expected every stage to run {_told(kinds)} on every microbatch."
        if not programs:
            raise ScheduleError(text)
        # The mark stands where the action could be added: at the end of the lane that has this stage's other actions.
        lane = home.get(missing.stage, len(programs) - 1)
        raise _refuse(text, programs, lane, len(programs[lane]))


def _ends(programs: Programs) -> None:
    order, position = progress(programs)
    if len(order) == sum(map(len, programs)):
        return
    stages = 1 + max(action.stage for program in programs for action in program)
    where = {action: (lane, index) for lane, program in enumerate(programs) for index, action in enumerate(program)}
    done = set(order)
    lane = next(lane for lane, program in enumerate(programs) if position[lane] < len(program))
    visited: list[int] = []
    while lane not in visited:  # Each blocked lane waits for another one. Following them ends in a cycle.
        visited.append(lane)
        head = programs[lane][position[lane]]
        lane = next(where[need][0] for need in head.needs(stages) if need not in done)
    # The walk may have begun at a lane outside the cycle, which waits for one inside. Only the cycle explains the
    # deadlock.
    cycle = visited[visited.index(lane) :]
    waits = []
    for lane in cycle:
        head = programs[lane][position[lane]]
        need = next(need for need in head.needs(stages) if need not in done)
        waits.append(f"{head} on lane {lane} waits for {need}, which comes later on lane {where[need][0]}")
    raise _refuse(f"The order waits for itself: {'; '.join(waits)}.", programs, cycle[0], position[cycle[0]])
