"""Schedules that decide themselves which lane runs a stage: several stages on each lane, the same number on all."""

from collections.abc import Callable

from kparallel.errors import ScheduleError
from kparallel.schedule.action import Programs, Schedule

__all__: list[str] = []


def dealt(lanes: int, one: Schedule, several: Callable[[int, int], Programs], instead: str) -> Schedule:
    """Return a schedule for numbers of stages that are multiples of the lanes.

    Args:
        lanes: The number of devices in a row.
        one: The schedule for one stage on each lane.
        several: Makes the programs for more, from the numbers of stages and microbatches.
        instead: The name of a schedule that takes any number of stages, for the error.

    Raises:
        ScheduleError: `lanes` is below 1. The schedule raises it too, if the stages are no multiple of `lanes`.
    """
    if lanes < 1:
        raise ScheduleError(f"Expected at least 1 lane, received {lanes}.")

    def schedule(stages: int, microbatches: int) -> Programs:
        if stages % lanes:
            raise ScheduleError(
                f"Expected a number of stages that is a multiple of the {lanes} devices in a row, received {stages}. "
                f"Use {lanes * (stages // lanes + 1)} stages, or the schedule {instead!r}."
            )
        return one(stages, microbatches) if stages == lanes else several(stages, microbatches)

    return schedule
