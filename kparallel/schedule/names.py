"""Schedules by name."""

from collections.abc import Callable
from difflib import get_close_matches

from kparallel.errors import PlanError
from kparallel.schedule.action import Programs
from kparallel.schedule.gpipe import gpipe
from kparallel.schedule.one_f_one_b import one_f_one_b

__all__: list[str] = []

Schedule = Callable[[int, int], Programs]


def by_name(name: str) -> Schedule:
    """Return the schedule of a name.

    Raises:
        PlanError: There is none; the message suggests the nearest.

    Example:
        >>> by_name("gpipe").__name__
        'gpipe'
    """
    known: dict[str, Schedule] = {"1f1b": one_f_one_b, "gpipe": gpipe}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise PlanError(f"Expected a schedule out of {sorted(known)}, received {name!r}.{hint}")
