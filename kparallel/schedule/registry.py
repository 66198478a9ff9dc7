"""Find a schedule by its name."""

import difflib

from kparallel.errors import PlanError
from kparallel.schedule.action import Schedule
from kparallel.schedule.gpipe import gpipe
from kparallel.schedule.interleaved import interleaved
from kparallel.schedule.one_f_one_b import one_f_one_b

__all__: list[str] = []

NAMES = ("1f1b", "gpipe", "interleaved")


def by_name(name: str, lanes: int | None = None) -> Schedule:
    """Return the schedule of a name.

    Args:
        name: `"1f1b"`, `"gpipe"` or `"interleaved"`, in any case.
        lanes: Number of devices in a row; `"interleaved"` needs it.

    Returns:
        The schedule.

    Raises:
        PlanError: There is no such name, or `"interleaved"` came without `lanes`.

    Example:
        >>> by_name("gpipe").__name__
        'gpipe'
    """
    lower = name.lower()
    if lower not in NAMES:
        near = difflib.get_close_matches(lower, NAMES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PlanError(f"Expected a schedule out of {', '.join(map(repr, NAMES))}, received {name!r}.{hint}")
    if lower == "interleaved":
        if lanes is None:
            raise PlanError("Expected the number of lanes for the schedule 'interleaved', received none.")
        return interleaved(lanes)
    return gpipe if lower == "gpipe" else one_f_one_b
