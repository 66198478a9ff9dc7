"""Sets of moments, as sorted lists of spans (start, end) that do not touch."""

from collections.abc import Iterable
from typing import TypeAlias

__all__: list[str] = []

Span: TypeAlias = tuple[float, float]


def union(spans: Iterable[Span]) -> list[Span]:
    """Merge spans that overlap or touch.

    Example:
        >>> union([(2, 3), (0, 1), (1, 2), (5, 6)])
        [(0, 3), (5, 6)]
    """
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        # An empty span has no moments.
        elif end > start:
            merged.append((start, end))
    return merged


def without(spans: list[Span], removed: list[Span]) -> list[Span]:
    """Return the difference of two sets: the moments in `spans` that are not in `taken`.

    Example:
        >>> without([(0, 5)], [(1, 2), (4, 9)])
        [(0, 1), (2, 4)]
    """
    remaining: list[Span] = []
    # Both lists are sorted, so one walk over both is enough. A removed span may reach over several spans, therefore
    # `position` begins anew at `index` for each.
    index = 0
    for start, end in spans:
        while index < len(removed) and removed[index][1] <= start:
            index += 1
        position = index
        while position < len(removed) and removed[position][0] < end:
            if removed[position][0] > start:
                remaining.append((start, removed[position][0]))
            start = max(start, removed[position][1])
            position += 1
        if start < end:
            remaining.append((start, end))
    return remaining


def within(spans: list[Span], limits: list[Span]) -> list[Span]:
    """Return the intersection of two sets.

    Example:
        >>> within([(0, 5)], [(1, 2), (4, 9)])
        [(1, 2), (4, 5)]
    """
    return without(spans, without(spans, limits))


def length(spans: Iterable[Span]) -> float:
    """Return the total length of spans."""
    return sum(end - start for start, end in spans)


def concurrent(spans: Iterable[Span], number: int) -> list[Span]:
    """Return the moments at which at least `number` of the given spans, which may overlap, run at once.

    Example:
        >>> concurrent([(0, 4), (1, 3), (2, 6)], 2)
        [(1, 4)]
    """
    # spans      (0, 4)  (1, 3)  (2, 6)
    # changes    +1 at 0, 1, 2      -1 at 3, 4, 6
    # An end sorts before a start at the same moment, so spans that only touch do not run at once; `union` joins what
    # that parts.
    changes = sorted(change for start, end in spans for change in ((start, 1), (end, -1)))
    result, running, began = [], 0, 0.0
    for moment, change in changes:
        if running < number <= running + change:
            began = moment
        elif running + change < number <= running:
            result.append((began, moment))
        running += change
    return union(result)
