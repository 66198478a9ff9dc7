"""Which tensors travel together between workers."""

from collections.abc import Callable, Sequence

import tensorflow as tf

__all__: list[str] = []

# A tensor of this many bytes travels alone: to put it into a pack and to take it out costs two copies, a fifth of the
# processor time of 30 MB between two workers of one core each. Smaller ones share packs of up to so many bytes.
ALONE = 2**20
PACK = 2**22
# What travels last waits for the last gradient, and no arithmetic is left to hide it: at most a fifth of all bytes,
# where there are enough to outweigh one more communicator, about a millisecond.
LAST = 1 / 5
WORTH = 2**19


def packs(sizes: Sequence[int]) -> list[list[int]]:
    """Group tensors for reduction, in the order in which backward passes give them: the last first.

    Args:
        sizes: Bytes of each tensor, in the order of the model.

    Returns:
        Indices of the tensors of each pack, in the order in which the packs can start.

    Example:
        >>> packs([2_000_000, 1_000, 2_000_000, 1_000])
        [[2], [0], [3, 1]]
        >>> packs([100_000, 200_000, 500_000])
        [[2, 1], [0]]
    """
    result: list[list[int]] = []
    shared: list[int] = []
    for index in reversed(range(len(sizes))):
        if sizes[index] >= ALONE:
            result.append([index])
            continue
        if sum(sizes[other] for other in shared) + sizes[index] > PACK:
            result.append(shared)
            shared = []
        shared.append(index)
    return [*result, *_divided(shared, sizes)]


def _divided(last: list[int], sizes: Sequence[int]) -> list[list[int]]:
    """Divide the last pack where much of it could travel before the last gradient is there."""
    whole = sum(sizes)
    count = 0  # Of its tensors, those that come last.
    while count < len(last) and sum(sizes[index] for index in last[len(last) - count - 1 :]) <= whole * LAST:
        count += 1
    early, late = last[: len(last) - count], last[len(last) - count :]
    if sum(sizes[index] for index in early) < WORTH:
        return [last] if last else []
    return [early, late] if late else [early]


def sum_by_dtype(
    sum_packs: Callable[[list[list[tf.Tensor]]], list[tf.Tensor]], values: list[tf.Tensor]
) -> list[tf.Tensor]:
    """Sum each tensor over a group of devices.

    Args:
        sum_packs: Sums each tensor; a pack's tensors, of one dtype, travel as one.
        values: Tensors of any shapes and dtypes, the same on all devices.
    """
    total: dict[int, tf.Tensor] = {}
    for dtype in dict.fromkeys(value.dtype for value in values):
        places = [index for index, value in enumerate(values) if value.dtype == dtype]
        sizes = [(values[index].shape.num_elements() or 0) * dtype.size for index in places]
        grouped = [[places[index] for index in pack] for pack in packs(sizes)]
        sums = sum_packs([[values[index] for index in pack] for pack in grouped])
        total |= zip((index for pack in grouped for index in pack), sums, strict=True)
    return [total[index] for index in range(len(values))]
