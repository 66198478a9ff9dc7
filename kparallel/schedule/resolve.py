"""Resolves a schedule's name or function to checked programs, one per device of a row."""

from collections.abc import Sequence

from kparallel.errors import ScheduleError
from kparallel.schedule.action import Action, Programs, Schedule
from kparallel.schedule.fold import fold
from kparallel.schedule.registry import registered
from kparallel.schedule.validate import check

__all__: list[str] = []


def programs_for(
    schedule: str | Schedule, stages: int, microbatches: int, lane_of_stage: Sequence[int] | None = None
) -> Programs:
    """Return the checked programs of a schedule on the given lanes.

    Args:
        schedule: A name, or a function from the numbers of stages and microbatches to one program per lane; its
            actions may be strings such as `"2F0"`.
        stages: Number of stages.
        microbatches: Number of microbatches.
        lane_of_stage: The lane of each stage; default one lane per stage. Programs made for one stage per lane are
            folded onto these lanes.

    Returns:
        One program per lane.

    Raises:
        PlanError: No schedule has this name.
        ScheduleError: The stages are not on the lanes that the schedule needs, or the programs break a law.

    Example:
        >>> programs_for(lambda stages, microbatches: [["0F0", "0B0"]], stages=1, microbatches=1)
        ((Action(stage=0, kind='F', microbatch=0), Action(stage=0, kind='B', microbatch=0)),)
    """
    # `lane_of[stage]` is a lane.
    lane_of = tuple(range(stages)) if lane_of_stage is None else tuple(lane_of_stage)
    lanes = max(lane_of) + 1
    if isinstance(schedule, str):
        entry = registered(schedule)
        # Such a schedule decides itself which lane runs a stage, so the mesh must have put the stages there.
        if entry.dealt and lane_of != tuple(entry.lane_of(stage, stages, lanes) for stage in range(stages)):
            where, turn = ("s % {}", "a, b, a, b") if not entry.back else ("s of {}, there and back", "a, b, b, a")
            raise ScheduleError(
                f"Expected stage s on lane {where.format(lanes)} for the schedule {schedule.lower()!r}, received the "
                f"lanes {lane_of}. Name the devices of a row in turn ({turn}), or use the schedule '1f1b'."
            )
        programs = entry.make(lanes)(stages, microbatches)
    else:
        programs = _read(schedule(stages, microbatches))
    # Checked before they are folded: an error then shows the programs as the schedule wrote them.
    check(programs, stages, microbatches)
    if _homes(programs) == lane_of:
        return programs
    if len(programs) == stages:
        # A schedule may return the programs of its stages in any order; `fold` wants that of the stages.
        return fold(tuple(sorted(programs, key=lambda program: program[0].stage)), lane_of)
    raise ScheduleError(
        f"Expected one program for each of the {stages} stages, or one for each of the {lanes} devices with the stages "
        f"on the lanes {lane_of}; received {len(programs)} programs with the stages on the lanes {_homes(programs)}."
    )


def _homes(programs: Programs) -> tuple[int, ...]:
    home = {action.stage: lane for lane, program in enumerate(programs) for action in program}
    return tuple(home[stage] for stage in sorted(home))


def _read(programs: object) -> Programs:
    expected = "Expected a schedule to return one list of actions (such as '2F0') per lane"
    # A string is a sequence too, of characters. Without this line "0F0" would be read as three lanes.
    if isinstance(programs, str) or not isinstance(programs, Sequence):
        raise ScheduleError(f"{expected}, received {programs!r}.")
    result = []
    for program in programs:
        if isinstance(program, str) or not isinstance(program, Sequence):
            raise ScheduleError(f"{expected}, received the lane {program!r}.")
        unknown = [action for action in program if not isinstance(action, Action | str)]
        if unknown:
            raise ScheduleError(f"{expected}, received the action {unknown[0]!r}.")
        result.append(tuple(Action.parse(action) if isinstance(action, str) else action for action in program))
    return tuple(result)
