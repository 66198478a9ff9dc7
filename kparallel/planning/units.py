"""A model as the planner sees it: units in topological order with what each costs. Knows nothing of Keras."""

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
        flops_per_row: Estimated operations of the forward pass for one row.
        parameters: Weights of the layer, counted at its first call.
        weight_bytes: Bytes of these weights.
        activation_bytes_per_row: What the call keeps for the backward pass, for one row.
        output_bytes_per_row: What it hands on, for one row.
        reads: Numbers of the units whose outputs it reads.
        layers: Its layer's path, or nothing for a plain operation.
        stays_with: Number of the first unit that changes the same state, such as an earlier call of a shared
            BatchNorm; no cut may fall between them. Default None.
        frozen_bytes: Bytes of those weights that are not trained and so have no gradient and no slots. Default 0.
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


def cut_points(units: Sequence[Unit]) -> npt.NDArray[np.bool_]:
    """Say where a stage may start or end.

    Args:
        units: The model's units.

    Returns:
        Whether a cut may fall before each unit, and at the end.

    Example:
        >>> shared = [Unit("norm", 1, 0, 0, 8, 8, (), ("norm",)), Unit("add", 1, 0, 0, 8, 8, (0,), ())]
        >>> cut_points([*shared, Unit("norm", 1, 0, 0, 8, 8, (1,), ("norm",), stays_with=0)]).tolist()
        [True, False, False, True]
    """
    free = np.full(len(units) + 1, True)
    for index, unit in enumerate(units):
        if unit.stays_with is not None:
            free[unit.stays_with + 1 : index + 1] = False
    return free


def incoming_bytes(units: Sequence[Unit]) -> npt.NDArray[np.float64]:
    """Count what every run of units reads from earlier units.

    Args:
        units: The model's units.

    Returns:
        Bytes for one row, indexed `[start, end]`; each output counts once. At `[start, len(units)]` stand the bytes
        that cross a cut before `start`.

    Example:
        >>> fork = [Unit("a", 1, 0, 0, 8, 8, (), ()), *[Unit(name, 1, 0, 0, 4, 4, (0,), ()) for name in "bc"]]
        >>> print(incoming_bytes(fork)[1])
        [0. 0. 8. 8.]
    """
    readers: list[list[int]] = [[] for _ in units]
    for index, unit in enumerate(units):
        for read in set(unit.reads):
            readers[read].append(index)
    arriving = np.zeros((len(units) + 1, len(units) + 1))
    for index, unit in enumerate(units):
        for before, reader in zip([index, *readers[index]], readers[index], strict=False):
            # Runs that start behind the reader before this one, and reach this one.
            arriving[before + 1 : reader + 1, reader + 1 :] += unit.output_bytes_per_row
    return arriving
