"""The schedules that have a name. A new one is a file of its own and a line of `SCHEDULES`."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from kparallel.errors import PlanError
from kparallel.schedule.action import Schedule
from kparallel.schedule.gpipe import gpipe
from kparallel.schedule.interleaved import interleaved
from kparallel.schedule.one_f_one_b import one_f_one_b

__all__: list[str] = []


@dataclass(frozen=True)
class NamedSchedule:
    """What a name stands for.

    Args:
        make: Takes the number of lanes and returns the schedule.
        dealt: Whether lane d of D runs the stages d, d + D, d + 2D, ...; else each lane runs neighboring stages.
    """

    make: Callable[[int], Schedule]
    dealt: bool = False

    def lane_of(self, stage: int, stages: int, lanes: int) -> int:
        """Return the lane that runs a stage."""
        return stage % lanes if self.dealt else stage * lanes // stages


# Read by the options, the mesh, the command line and the tests of the laws.
SCHEDULES = {
    "1f1b": NamedSchedule(lambda lanes: one_f_one_b),
    "gpipe": NamedSchedule(lambda lanes: gpipe),
    "interleaved": NamedSchedule(interleaved, dealt=True),
}


def registered(schedule: str | Schedule) -> NamedSchedule:
    """Return what a name stands for; a function stands for itself, with neighboring stages on a lane.

    Args:
        schedule: A name, in any case, or a schedule.

    Raises:
        PlanError: There is no such name.
    """
    if not isinstance(schedule, str):
        return NamedSchedule(lambda lanes: schedule)
    name = schedule.lower()
    if name not in SCHEDULES:
        near = difflib.get_close_matches(name, SCHEDULES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PlanError(f"Expected a schedule out of {', '.join(map(repr, SCHEDULES))}, received {schedule!r}.{hint}")
    return SCHEDULES[name]


def by_name(name: str, lanes: int | None = None) -> Schedule:
    """Return the schedule of a name.

    Args:
        name: One of `SCHEDULES`, in any case.
        lanes: Number of devices in a row; `"interleaved"` needs it.

    Returns:
        The schedule.

    Raises:
        PlanError: There is no such name, or it needs `lanes` and came without.

    Example:
        >>> by_name("gpipe").__name__
        'gpipe'
    """
    found = registered(name)
    if lanes is None and found.dealt:
        raise PlanError(f"Expected the number of lanes for the schedule {name.lower()!r}, received none.")
    return found.make(lanes or 1)
