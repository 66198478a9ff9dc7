"""Which replica owns which weight where the optimizer is sharded: it alone holds the weight's slots, and updates it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

__all__: list[str] = []


@dataclass(frozen=True)
class Load:
    """What the owner of one weight has to hold and to update.

    Args:
        held_bytes: The bytes that the owner alone holds: those of the weight's slots, with `shard="weights"` of the
            weight as well.
        weight_bytes: The bytes of the weight itself; they decide where the owners hold nothing.
        column: The device of each replica that may own it.
    """

    held_bytes: int
    weight_bytes: int
    column: tuple[str, ...]


def share_out(loads: Sequence[Load]) -> list[int]:
    """Return the owner of each weight, so that the devices hold about as many bytes each.

    The largest weight is given away first, each to the device that holds least so far. So no device holds more than an
    equal part of all bytes and the largest weight's. The same loads have the same owners in every process.

    Args:
        loads: One for each weight.

    Returns:
        For each weight the index of its owner in its column.

    Example:
        >>> share_out([Load(size, size, ("CPU:0", "CPU:1")) for size in (8, 80, 72)])
        [1, 0, 1]
    """
    held: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    owners = [0] * len(loads)
    for index in sorted(range(len(loads)), key=lambda i: (-loads[i].held_bytes, -loads[i].weight_bytes, i)):
        load = loads[index]
        owner = min(range(len(load.column)), key=lambda replica: (held[load.column[replica]], replica))
        alone, weights = held[load.column[owner]]
        held[load.column[owner]] = alone + load.held_bytes, weights + load.weight_bytes
        owners[index] = owner
    return owners
