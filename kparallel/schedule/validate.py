"""The laws of a schedule, checked without running it; what breaks one is shown in a chart."""

from collections import Counter

from kparallel.errors import ScheduleError
from kparallel.schedule.action import BACKWARD, FORWARD, Action, Programs
from kparallel.schedule.chart import marked
from kparallel.schedule.clock import progress

__all__: list[str] = []


def check(programs: Programs, stages: int, microbatches: int, *, backward: bool = True) -> None:
    """Refuse programs that would leave work out, do it twice, or wait forever.

    The laws: every action of every stage and microbatch occurs once; all actions of a stage are on one lane; lanes that
    wait for what an action reads (`F(s, m)` reads `F(s - 1, m)`; `B(s, m)` reads `F(s, m)` and `B(s + 1, m)`) all
    come to their end.

    Args:
        programs: One program per lane.
        stages: Number of stages.
        microbatches: Number of microbatches.
        backward: Whether backward passes belong to it; False for `evaluate` and `predict`. Default True.

    Raises:
        ScheduleError: A law is broken; the text holds the chart with a mark at the action.

    Example:
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> check(one_f_one_b(4, 8), stages=4, microbatches=8)
    """
    kinds = (FORWARD, BACKWARD) if backward else (FORWARD,)
    _known(programs, stages, microbatches, kinds)
    _once(programs)
    _one_lane(programs)
    _complete(programs, stages, microbatches, kinds)
    _ends(programs)


def _refuse(text: str, programs: Programs, lane: int, position: int) -> ScheduleError:
    return ScheduleError(f"{text}\n{marked(programs, lane, position)}")


def _known(programs: Programs, stages: int, microbatches: int, kinds: tuple[str, ...]) -> None:
    for lane, program in enumerate(programs):
        for position, action in enumerate(program):
            if action.stage >= stages or action.microbatch >= microbatches or action.kind not in kinds:
                wanted = (
                    f"stages 0 to {stages - 1}, microbatches 0 to {microbatches - 1} and kinds {' and '.join(kinds)}"
                )
                raise _refuse(f"Unknown action {action}: expected {wanted}.", programs, lane, position)


def _once(programs: Programs) -> None:
    seen: Counter[Action] = Counter()
    for lane, program in enumerate(programs):
        for position, action in enumerate(program):
            seen[action] += 1
            if seen[action] > 1:
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
        text = f"Action {missing} is missing: expected every stage to run {' and '.join(kinds)} on every microbatch."
        if not programs:
            raise ScheduleError(text)
        lane = home.get(missing.stage, len(programs) - 1)
        raise _refuse(text, programs, lane, len(programs[lane]))


def _ends(programs: Programs) -> None:
    order, position = progress(programs)
    if len(order) == sum(map(len, programs)):
        return
    stages = 1 + max(action.stage for program in programs for action in program)
    place = {action: (lane, at) for lane, program in enumerate(programs) for at, action in enumerate(program)}
    done = set(order)
    lane = next(lane for lane, program in enumerate(programs) if position[lane] < len(program))
    passed: list[int] = []
    while lane not in passed:  # From lane to lane, each waiting for the next, until the ring closes.
        passed.append(lane)
        head = programs[lane][position[lane]]
        lane = next(place[need][0] for need in head.needs(stages) if need not in done)
    ring = passed[passed.index(lane) :]
    waits = []
    for lane in ring:
        head = programs[lane][position[lane]]
        need = next(need for need in head.needs(stages) if need not in done)
        waits.append(f"{head} on lane {lane} waits for {need}, which comes later on lane {place[need][0]}")
    raise _refuse(f"The order waits for itself: {'; '.join(waits)}.", programs, ring[0], position[ring[0]])
