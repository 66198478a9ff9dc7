"""The registry of named schedules. A new schedule is a file of its own and a line in `SCHEDULES`."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from kparallel.errors import PlanError
from kparallel.schedule.action import Schedule
from kparallel.schedule.gpipe import gpipe
from kparallel.schedule.interleaved import interleaved
from kparallel.schedule.one_f_one_b import one_f_one_b
from kparallel.schedule.zb_h1 import zb_h1
from kparallel.schedule.zb_v import there_and_back, zb_v

__all__: list[str] = []


@dataclass(frozen=True)
class NamedSchedule:
    """An entry of the registry.

    Args:
        make: A function from the number of lanes to the schedule.
        dealt: Whether lane d of D runs the stages d, d + D, d + 2D, ... Otherwise each lane runs neighboring stages.
        back: Whether the stages that are dealt go back in every second turn: 0 1 1 0 for two lanes. Default False.
    """

    make: Callable[[int], Schedule]
    dealt: bool = False
    back: bool = False

    def lane_of(self, stage: int, stages: int, lanes: int) -> int:
        """Return the lane that runs a stage."""
        # For 4 stages on 2 lanes: dealt 0 1 0 1, with the way back 0 1 1 0, neighbors 0 0 1 1.
        if self.back:
            return there_and_back(stage, lanes)
        return stage % lanes if self.dealt else stage * lanes // stages


# Read by the options, the mesh, the command line and the tests of the laws.
SCHEDULES = {
    "1f1b": NamedSchedule(lambda lanes: one_f_one_b),
    "gpipe": NamedSchedule(lambda lanes: gpipe),
    "interleaved": NamedSchedule(interleaved, dealt=True),
    "zb_h1": NamedSchedule(lambda lanes: zb_h1),
    "zb_v": NamedSchedule(zb_v, dealt=True, back=True),
}


def registered(schedule: str | Schedule) -> NamedSchedule:
    """Return the entry of a name. A function gets an entry of its own, with neighboring stages on a lane.

    Args:
        schedule: A name, in upper or lower case, or a schedule.

    Raises:
        PlanError: No schedule has this name.
    """
    # A function gets no number of lanes: it makes one program for each stage, which are folded where a lane has
    # several.
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
        name: A name in `SCHEDULES`, in upper or lower case.
        lanes: The number of devices in a row; `"interleaved"` and `"zb_v"` need it.

    Returns:
        The schedule.

    Raises:
        PlanError: No schedule has this name, or it needs `lanes` and none was passed.

    Example:
        >>> by_name("gpipe").__name__
        'gpipe'
    """
    entry = registered(name)
    if lanes is None and entry.dealt:
        raise PlanError(f"Expected the number of lanes for the schedule {name.lower()!r}, received none.")
    return entry.make(lanes or 1)
