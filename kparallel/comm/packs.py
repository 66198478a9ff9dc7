"""Groups tensors into packs, each of which is one collective between workers."""

from collections.abc import Callable, Sequence

import tensorflow as tf

__all__: list[str] = []

# A tensor of at least ALONE bytes travels alone: packing and unpacking are two copies, which cost a fifth of the
# processor time of 30 MB between two workers of one core each. Smaller tensors share packs of up to PACK bytes.
ALONE = 2**20
PACK = 2**22
# The last pack waits for the last gradient, and no computation is left that could hide it. So it gets at most a fifth
# of all bytes, if the rest is at least WORTH bytes: one more collective costs about a millisecond.
LAST = 1 / 5
WORTH = 2**19


def packs(sizes: Sequence[int]) -> list[list[int]]:
    """Group tensors for reduction, in the order in which the backward pass computes them: the last one first.

    Args:
        sizes: The bytes of each tensor, in the order of the model.

    Returns:
        The indices of the tensors of each pack, in the order in which the packs can start.

    Example:
        >>> packs([2_000_000, 1_000, 2_000_000, 1_000])
        [[2], [0], [3, 1]]
        >>> packs([100_000, 200_000, 500_000])
        [[2, 1], [0]]
    """
    result: list[list[int]] = []
    shared: list[int] = []
    # The backward pass ends at the first weights, so the last ones' gradients are there first.
    for index in reversed(range(len(sizes))):
        if sizes[index] >= ALONE:
            result.append([index])
            continue
        if sum(sizes[other] for other in shared) + sizes[index] > PACK:
            result.append(shared)
            shared = []
        shared.append(index)
    return [*result, *_divided(shared, sizes)]


def _divided(pack: list[int], sizes: Sequence[int]) -> list[list[int]]:
    """Divide the last pack if much of it could travel before the last gradient is computed."""
    total = sum(sizes)
    count = 0  # The number of its tensors that have to wait for the last gradient.
    while count < len(pack) and sum(sizes[index] for index in pack[len(pack) - count - 1 :]) <= total * LAST:
        count += 1
    # `pack` is in the order of the backward pass, so its end has to wait longest.
    early, late = pack[: len(pack) - count], pack[len(pack) - count :]
    if sum(sizes[index] for index in early) < WORTH:
        return [pack] if pack else []
    return [early, late] if late else [early]


def sum_by_dtype(
    sum_packs: Callable[[list[list[tf.Tensor]]], list[tf.Tensor]], values: list[tf.Tensor]
) -> list[tf.Tensor]:
    """Sum each tensor over a group of devices.

    Args:
        sum_packs: Sums each tensor. The tensors of a pack have one dtype and travel as one.
        values: Tensors of any shapes and dtypes, which are the same on all devices.
    """
    total: dict[int, tf.Tensor] = {}  # By the index in `values`.
    # A pack is one tensor on the way, and a tensor has one dtype.
    for dtype in dict.fromkeys(value.dtype for value in values):
        indices = [index for index, value in enumerate(values) if value.dtype == dtype]
        sizes = sizes_of([values[index] for index in indices])
        grouped = [[indices[index] for index in pack] for pack in packs(sizes)]
        sums = sum_packs([[values[index] for index in pack] for pack in grouped])
        total |= zip((index for pack in grouped for index in pack), sums, strict=True)
    return [total[index] for index in range(len(values))]


def sizes_of(values: Sequence[tf.Tensor]) -> list[int]:
    """Return the bytes of each tensor."""
    return [(value.shape.num_elements() or 0) * value.dtype.size for value in values]


def packs_of_owners(sizes: Sequence[int], owners: Sequence[int]) -> list[list[int]]:
    """Group tensors of which each is for one worker alone.

    ```text
    pack      [ tensors of worker 0 | tensors of worker 1 | ... ]
    ```

    While a worker's tensors are summed, each connection of the ring carries what is for another worker. So a pack has
    about as many bytes for each of them: a large tensor does not travel alone here.

    Args:
        sizes: The bytes of each tensor, in the order of the model.
        owners: The worker of each tensor.

    Returns:
        The indices of the tensors of each pack, by worker, in the order in which the packs can start: the last first.

    Example:
        >>> packs_of_owners([2_000_000, 2_000_000, 3_000_000, 3_000_000], [0, 1, 0, 1])
        [[2, 3], [0, 1]]
    """
    result: list[list[int]] = []
    held = dict.fromkeys(owners, 0)
    pack: list[int] = []
    for index in reversed(range(len(sizes))):
        pack.append(index)
        held[owners[index]] += sizes[index]
        if sum(held.values()) >= PACK and 2 * min(held.values()) >= max(held.values()):
            result.append(pack)
            pack, held = [], dict.fromkeys(held, 0)
    return [sorted(each, key=lambda index: (owners[index], index)) for each in [*result, pack] if each]


def bundles(pack: Sequence[int], sizes: Sequence[int], owners: Sequence[int]) -> dict[int, list[list[int]]]:
    """Group the tensors of a pack into what travels as one array: a large tensor alone, an owner's small ones together.

    Args:
        pack: The indices of the tensors.
        sizes: The bytes of each tensor.
        owners: The owner of each.

    Returns:
        By owner, in their order, the indices of the tensors of each array.

    Example:
        >>> bundles([0, 1, 2, 3], sizes=[2_000_000, 1_000, 2_000, 3_000], owners=[0, 0, 0, 1])
        {0: [[0], [1, 2]], 1: [[3]]}
    """
    result: dict[int, list[list[int]]] = {}
    for owner in sorted({owners[index] for index in pack}):
        own = [index for index in pack if owners[index] == owner]
        small = [index for index in own if sizes[index] < ALONE]
        result[owner] = [[index] for index in own if sizes[index] >= ALONE] + ([small] if small else [])
    return result


def by_dtype(
    values: Sequence[tf.Tensor], owners: Sequence[int], carry: Callable[[list[int]], list[tf.Tensor]]
) -> list[tf.Tensor]:
    """Carry tensors between their owner and the others in packs of one dtype.

    Args:
        values: Tensors of any shapes and dtypes, which are the same on all replicas.
        owners: The worker of each.
        carry: Takes the indices of a pack, by worker; returns what each tensor becomes.
    """
    found: dict[int, tf.Tensor] = {}  # By the index in `values`.
    for dtype in dict.fromkeys(value.dtype for value in values):
        indices = [index for index, value in enumerate(values) if value.dtype == dtype]
        sizes = sizes_of([values[index] for index in indices])
        for grouped in packs_of_owners(sizes, [owners[index] for index in indices]):
            pack = [indices[index] for index in grouped]
            found |= zip(pack, carry(pack), strict=True)
    return [found[index] for index in range(len(values))]
