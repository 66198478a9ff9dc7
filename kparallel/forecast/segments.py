"""Joins calls that no sensible cut would part, so that models of thousands of calls are searched in seconds."""

from collections.abc import Sequence

import numpy as np

from kparallel.planning.units import Unit, cut_points

__all__: list[str] = []

MOST = 256


def segments(units: Sequence[Unit], most: int = MOST) -> tuple[int, ...]:
    """Return the first unit of each segment: where a stage may start.

    Of the places where a cut may fall those are kept at which the fewest bytes cross it; in a Transformer these are the
    ends of attention and of the feed-forward part, where one tensor crosses and not two.

    Args:
        units: The model's units, in topological order.
        most: The largest number of segments. Default 256.

    Example:
        >>> chain = [Unit(f"dense_{i}", 1, 1, 4, 8, 8 + i % 2, (i - 1,) if i else (), ("d",)) for i in range(6)]
        >>> segments(chain), segments(chain, most=3)
        ((0, 1, 2, 3, 4, 5), (0, 1, 5))
    """
    allowed = [int(start) for start in np.flatnonzero(cut_points(units)) if 0 < start < len(units)]
    if len(allowed) < most:
        return (0, *allowed)
    crossing = _crossing(units)
    # The first segment starts at 0, so `most - 1` starts may be chosen, and the widest of them is the one of index
    # `most - 2`.
    width = sorted(crossing[start] for start in allowed)[most - 2]
    narrow = [start for start in allowed if crossing[start] <= width]
    if len(narrow) >= most:  # As many are as narrow: every n-th of them.
        narrow = [narrow[len(narrow) * (2 * index + 1) // (2 * most - 2)] for index in range(most - 1)]
    return (0, *narrow)


def joined(units: Sequence[Unit], starts: Sequence[int]) -> tuple[Unit, ...]:
    """Return one unit for each segment.

    Args:
        units: The model's units.
        starts: The first unit of each segment.

    Example:
        >>> chain = [Unit(f"dense_{i}", 1, 10, 40, 8, 8, (i - 1,) if i else (), (f"d{i}",)) for i in range(3)]
        >>> joined(chain, (0, 2))[0]
        Unit(name='dense_0', flops_per_row=2, parameters=20, weight_bytes=80, activation_bytes_per_row=16, \
output_bytes_per_row=8, reads=(), layers=('d0', 'd1'), stays_with=None, frozen_bytes=0, largest_bytes=0, \
loop_steps=0)
    """
    ends = [*starts[1:], len(units)]
    segment_of = np.repeat(np.arange(len(starts)), np.diff([*starts, len(units)])).tolist()
    # An output that only its own segment reads is no output of the segment.
    read_later = {
        read for index, unit in enumerate(units) for read in unit.reads if segment_of[read] != segment_of[index]
    }
    result = []
    for segment, (start, end) in enumerate(zip(starts, ends, strict=True)):
        members = units[start:end]
        reads = {segment_of[read] for unit in members for read in unit.reads} - {segment}
        result.append(
            Unit(
                name=members[0].name,
                flops_per_row=sum(unit.flops_per_row for unit in members),
                parameters=sum(unit.parameters for unit in members),
                weight_bytes=sum(unit.weight_bytes for unit in members),
                activation_bytes_per_row=sum(unit.activation_bytes_per_row for unit in members),
                output_bytes_per_row=sum(units[i].output_bytes_per_row for i in range(start, end) if i in read_later),
                reads=tuple(sorted(reads)),
                layers=tuple(dict.fromkeys(layer for unit in members for layer in unit.layers)),
                frozen_bytes=sum(unit.frozen_bytes for unit in members),
                largest_bytes=max(unit.largest_bytes for unit in members),
                loop_steps=sum(unit.loop_steps for unit in members),
            )
        )
    return tuple(result)


def _crossing(units: Sequence[Unit]) -> list[float]:
    """Return the bytes that cross a cut before each unit; each output counts once."""
    last = list(range(len(units)))
    for index, unit in enumerate(units):
        for read in unit.reads:
            last[read] = index
    # Each output is added behind its writer and taken away behind its last reader; the running sum is what crosses.
    change = [0.0] * (len(units) + 2)
    for index, unit in enumerate(units):
        change[index + 1] += unit.output_bytes_per_row
        change[last[index] + 1] -= unit.output_bytes_per_row
    return [float(size) for size in np.cumsum(change)[: len(units)]]
