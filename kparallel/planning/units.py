"""The planner's view of a model: units in topological order with their costs. It does not depend on Keras."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__: list[str] = []


@dataclass(frozen=True)
class Unit:
    """One call of a layer or operation.

    Args:
        name: The layer's path, such as `"encoder/dense_1"`.
        flops_per_row: The estimated floating-point operations of the forward pass for one row.
        parameters: The number of weights of the layer, counted at its first call.
        weight_bytes: The bytes of these weights.
        activation_bytes_per_row: The bytes that the call keeps for the backward pass, for one row.
        output_bytes_per_row: The bytes of its outputs, for one row.
        reads: The indices of the units whose outputs it reads.
        layers: The path of its layer; empty for a plain operation.
        stays_with: The index of the first unit that changes the same state, such as an earlier call of a shared
            BatchNorm. No cut may fall between the two. Default None.
        frozen_bytes: The bytes of those weights that are not trained, and so have no gradient and no slots. Default 0.
        largest_bytes: The bytes of the largest weight that is trained. Default 0.
        loop_steps: The number of time steps of a layer that loops over time. Each starts its own small operations, so
            most of such a loop's time does not shrink with the rows. Default 0.
    """

    name: str
    flops_per_row: float
    parameters: int
    weight_bytes: int
    activation_bytes_per_row: int
    output_bytes_per_row: int
    reads: tuple[int, ...]
    layers: tuple[str, ...]
    stays_with: int | None = None
    frozen_bytes: int = 0
    largest_bytes: int = 0
    loop_steps: int = 0


def cut_points(units: Sequence[Unit]) -> npt.NDArray[np.bool_]:
    """Return where a stage may start or end.

    Args:
        units: The model's units.

    Returns:
        For each unit whether a cut may fall before it, and whether one may fall at the end.

    Example:
        >>> shared = [Unit("norm", 1, 0, 0, 8, 8, (), ("norm",)), Unit("add", 1, 0, 0, 8, 8, (0,), ())]
        >>> cut_points([*shared, Unit("norm", 1, 0, 0, 8, 8, (1,), ("norm",), stays_with=0)]).tolist()
        [True, False, False, True]
    """
    allowed = np.full(len(units) + 1, True)
    for index, unit in enumerate(units):
        # Entry i is the cut before unit i. The cuts after the first unit of the state and up to this one would part
        # them.
        if unit.stays_with is not None:
            allowed[unit.stays_with + 1 : index + 1] = False
    return allowed


def incoming_bytes(units: Sequence[Unit]) -> npt.NDArray[np.float64]:
    """Return the bytes that every run of units reads from earlier units.

    Args:
        units: The model's units.

    Returns:
        Bytes for one row, `[start, end]`, end exclusive. Each output counts once. The entry `[start, len(units)]` is
        the number of bytes that cross a cut before `start`.

    Example:
        >>> fork = [Unit("a", 1, 0, 0, 8, 8, (), ()), *[Unit(name, 1, 0, 0, 4, 4, (0,), ()) for name in "bc"]]
        >>> print(incoming_bytes(fork)[1])
        [0. 0. 8. 8.]
    """
    # `readers[index]` has the units that read the output of a unit, in ascending order.
    readers: list[list[int]] = [[] for _ in units]
    for index, unit in enumerate(units):
        for read in set(unit.reads):
            readers[read].append(index)
    # A run [start, end) receives the output of unit w if it starts after w and has a reader r of it: w < start <= r <
    # end.
    incoming = np.zeros((len(units) + 1, len(units) + 1))
    for index, unit in enumerate(units):
        for previous, reader in zip([index, *readers[index]], readers[index], strict=False):
            # The runs whose first reader of this output is `reader`: they start after the previous reader (at first
            # after the writer) and contain this one. So the output counts once in each run.
            incoming[previous + 1 : reader + 1, reader + 1 :] += unit.output_bytes_per_row
    return incoming
