"""Cut a list of costs into contiguous groups, the slowest of which is as fast as can be."""

from collections.abc import Sequence

from kparallel.errors import PlanError
from kparallel.planning.profile import Unit, cut_bytes

__all__: list[str] = []


def cut(costs: Sequence[float], stages: int, units: Sequence[Unit] | None = None) -> tuple[int, ...]:
    """Return where each group starts; exact, by dynamic programming over (groups, end).

    Among the cuts with the least slowest group, the one that sends the fewest bytes is taken.

    Args:
        costs: One cost for each unit, in order.
        stages: How many groups.
        units: The units, to count the bytes that a cut sends; default none are counted.

    Raises:
        PlanError: There are more stages than units.

    Example:
        >>> cut([4, 1, 1, 1, 3], 2)
        (0, 2)
    """
    number = len(costs)
    if not 1 <= stages <= number:
        raise PlanError(f"Expected 1 to {number} stages for a model of {number} calls, received {stages}.")
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    sent = [0 if units is None or start == 0 else cut_bytes(units, start) for start in range(number)]
    # best[end]: (slowest group, bytes sent, starts) of the first `end` units in so many groups.
    best: dict[int, tuple[float, int, tuple[int, ...]]] = {end: (sums[end], 0, (0,)) for end in range(1, number + 1)}
    for groups in range(2, stages + 1):
        best = {
            end: min(
                (max(best[start][0], sums[end] - sums[start]), best[start][1] + sent[start], (*best[start][2], start))
                for start in range(groups - 1, end)
            )
            for end in range(groups, number + 1)
        }
    return best[number][2]
