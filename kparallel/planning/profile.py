"""A model as the planner sees it: units in topological order with what each costs. Knows nothing of Keras."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    name: str
    flops_per_row: float
    parameters: int
    weight_bytes: int
    activation_bytes_per_row: int
    output_bytes_per_row: int
    reads: tuple[int, ...]
    layers: tuple[str, ...]


def cut_bytes(units: Sequence[Unit], start: int) -> int:
    """Return the bytes for one row that cross a cut before unit `start`, each output counted once."""
    crossing = {read for unit in units[start:] for read in unit.reads if read < start}
    return sum(units[read].output_bytes_per_row for read in crossing)
