"""Schedules as text: lanes downwards, time to the right."""

from collections.abc import Sequence

from kparallel.schedule.action import Programs
from kparallel.schedule.clock import clock

__all__: list[str] = []


def chart(programs: Programs, names: Sequence[str] | None = None, width: int = 100) -> str:
    """Draw a schedule on a clock in which every action takes one tick.

    Args:
        programs: One program per lane.
        names: The names of the lanes; default `lane 0`, `lane 1`, ...
        width: The number of characters in a line. Later ticks are left out, and the last line says so. Default 100.

    Returns:
        One line per lane under a line of ticks; `.` is an idle tick.

    Raises:
        ScheduleError: The programs deadlock.

    Example:
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> print(chart(one_f_one_b(2, 3)))
        tick    0   1   2   3   4   5   6   7
        lane 0  0F0 0F1 .   0B0 0F2 0B1 .   0B2
        lane 1  .   1F0 1B0 1F1 1B1 1F2 1B2 .
    """
    times = clock(programs)
    ticks = int(times.makespan)
    names = _names(programs, names)
    cell = 1 + max([len(str(action)) for action in times.start] + [len(str(ticks))])
    margin = 2 + max(map(len, [*names, "tick"]))
    # A line has the margin and then a cell for each tick; the last cell needs no space after it.
    shown = ticks if margin + cell * ticks - 1 <= width else max(1, (width - margin - 1) // cell)
    # `rows[0]` has the numbers of the ticks, `rows[1 + lane]` the lane's actions. All ticks begin as idle.
    rows = [[str(tick) for tick in range(shown)], *[["."] * shown for _ in programs]]
    for row, program in zip(rows[1:], programs, strict=True):
        for action in program:
            if times.start[action] < shown:
                row[int(times.start[action])] = str(action)
    cut = " …" if shown < ticks else ""
    lines = [
        (f"{name:<{margin}}" + "".join(f"{text:<{cell}}" for text in row)).rstrip() + cut
        for name, row in zip(["tick", *names], rows, strict=True)
    ]
    if cut:
        lines.append(f"… {ticks - shown} more of {ticks} ticks")
    return "\n".join(lines)


def marked(programs: Programs, lane: int, position: int, width: int = 100) -> str:
    """Draw programs, which may be invalid, action by action, with a mark under one position.

    Args:
        programs: One program per lane.
        lane: The lane of the mark.
        position: The position in the lane's program; the length of the program means after its last action.
        width: The number of characters in a line. Actions far from the mark are left out. Default 100.

    Returns:
        One line per lane, and under the lane's line `^^^ <-- here`.

    Example:
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> print(marked(one_f_one_b(2, 2), 1, 2))
        lane 0  0F0 0F1 0B0 0B1
        lane 1  1F0 1B0 1F1 1B1
                        ^^^ <-- here
    """
    names = _names(programs, None)
    cell = 1 + max((len(str(action)) for program in programs for action in program), default=3)
    margin = 2 + max(map(len, names), default=0)
    # The window of actions around the mark; 4 characters are kept for an ellipsis with its space on each side.
    fit = max(1, (width - margin - len(" <-- here") - 4) // cell)
    longest = max(len(programs[lane]), position + 1, *map(len, programs))
    first = min(max(0, position - fit // 2), max(0, longest - fit))
    lead = "… " if first else ""
    lines = []
    for index, (name, program) in enumerate(zip(names, programs, strict=True)):
        text = lead + "".join(f"{action!s:<{cell}}" for action in program[first : first + fit])
        lines.append(f"{name:<{margin}}{text.rstrip()}" + (" …" if first + fit < len(program) else ""))
        if index == lane:
            # A position after the last action stands for an action that is missing. It has no text, so the mark has
            # the width of a usual action.
            under = str(program[position]) if position < len(program) else "^^^"
            lines.append(" " * (margin + len(lead) + cell * (position - first)) + "^" * len(under) + " <-- here")
    return "\n".join(line.rstrip() for line in lines)


def _names(programs: Programs, names: Sequence[str] | None) -> list[str]:
    return [f"lane {index}" for index in range(len(programs))] if names is None else list(names)
