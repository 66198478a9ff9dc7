"""Estimates the memory of a stage during training from the sizes of its tensors."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kparallel.errors import PlanError

if TYPE_CHECKING:  # Printing a plan needs no numpy.
    import numpy as np
    import numpy.typing as npt

__all__: list[str] = []

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|[kKMGT]B|[KMGT]iB)\s*")

Bytes: TypeAlias = "float | npt.NDArray[np.float64]"
"""Bytes of one stage, or of every stage that there could be."""


@dataclass(frozen=True)
class Memory:
    """The memory of one stage on one device, in bytes.

    Args:
        weights: The weights; of those that the replicas share out, what this device holds, and the copy of the stage's.
        gradients: The gradients, summed over microbatches.
        slots: The optimizer's variables that this device holds.
        activations: The tensors that forward passes keep for backward passes, at the peak.
    """

    weights: Bytes
    gradients: Bytes
    slots: Bytes
    activations: Bytes

    @property
    def total(self) -> Bytes:
        """The sum of all parts."""
        return self.weights + self.gradients + self.slots + self.activations


def stage_memory(
    weight_bytes: Bytes,
    activation_bytes: Bytes,
    incoming_bytes: Bytes,
    in_flight: int,
    recompute: str = "never",
    slots: float = 2,
    frozen_bytes: Bytes = 0,
    owners: int = 1,
    largest_bytes: Bytes = 0,
    deferred: int = 0,
    brought: bool = False,
) -> Memory:
    """Estimate a stage's memory.

    A stage keeps the activations of every microbatch in flight. With recomputation it keeps the inputs of each, and all
    activations of the one that runs backward. `"except_last"` also keeps the activations of the last microbatch.
    Between the parts of a split backward pass a microbatch has its activations, and gradients of the same size.

    Args:
        weight_bytes: The bytes of the stage's weights.
        activation_bytes: The bytes that the forward pass of one microbatch keeps.
        incoming_bytes: The bytes of the inputs of one microbatch from earlier stages.
        in_flight: The largest number of microbatches that wait for their backward pass.
        recompute: `"never"`, `"always"` or `"except_last"`.
        slots: The number of optimizer variables for each weight: 2 (default) for Adam, 1 for momentum, 0 for plain SGD.
        frozen_bytes: The bytes of those weights that are not trained, and so have no gradient and no slots. Default 0.
        owners: The number of replicas that share the slots out among themselves. Default 1, each has them all.
        largest_bytes: The bytes of the largest weight that is trained. Its slots are not divided. Default 0.
        deferred: The largest number of microbatches that wait for the gradients of their weights alone. Default 0.
        brought: Whether the owners alone hold the weights, of which a copy is brought while the stage runs. Default
            False.

    Example:
        >>> stage_memory(100, activation_bytes=50, incoming_bytes=10, in_flight=4)
        Memory(weights=100, gradients=100, slots=200, activations=200)
        >>> stage_memory(100, activation_bytes=50, incoming_bytes=10, in_flight=4, recompute="always").activations
        90
    """
    activations = (in_flight + deferred) * activation_bytes
    if recompute != "never":
        # Of how many microbatches all activations are there at the peak: of those whose gradients of weights are still
        # to come, of the one that runs backward, and with "except_last" also of the last one, which has not been
        # recomputed.
        complete = min(in_flight, deferred + (2 if recompute == "except_last" else 1))
        activations = (complete + deferred) * activation_bytes + in_flight * incoming_bytes
    # Slots are divided by whole weights: no weight is cut. So a device holds at least the slots of the largest weight.
    trained = weight_bytes - frozen_bytes
    held = trained / owners if owners > 1 else trained
    if owners > 1:  # At least; where weights differ much in size, the fullest device holds a little more.
        held = _larger(held, largest_bytes)
    weights = frozen_bytes + held + trained if brought else weight_bytes
    return Memory(weights, trained, slots * held, activations)


def _larger(one: Bytes, other: Bytes) -> Bytes:
    """Return the larger of two numbers, or of each pair of entries of two tables."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return max(one, other)
    import numpy as np

    return np.maximum(one, other)


# By the lower-case name of the optimizer's class. Adafactor keeps a vector for each side of a matrix, which is small
# enough to count as nothing.
_SLOTS = {"sgd": 0, "rmsprop": 1, "adagrad": 1, "lion": 1, "adafactor": 0, "muon": 1}


def slots_of(optimizer: str, more: int = 0) -> float:
    """Return the number of variables that an optimizer keeps for each weight.

    Args:
        optimizer: The name of its class. An unknown one counts 2, as Adam.
        more: The number of options that are set and keep one more variable each: momentum, centered, amsgrad, use_ema.

    Example:
        >>> slots_of("Adam"), slots_of("SGD"), slots_of("SGD", more=1)
        (2, 0, 1)
    """
    return _SLOTS.get(optimizer.lower(), 2) + more


def parse_bytes(size: str | float) -> float:
    """Read a size such as `"8GB"`.

    Args:
        size: A number of bytes, or a number with B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024).

    Returns:
        The number of bytes.

    Raises:
        PlanError: The argument is no size.

    Example:
        >>> parse_bytes("8GB"), parse_bytes("1.5 MiB")
        (8000000000.0, 1572864.0)
    """
    if isinstance(size, int | float) and not isinstance(size, bool) and size > 0:
        return float(size)
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None or float(match[1]) == 0:
        raise PlanError(f"Expected a size such as '8GB' or '512 MiB', or a number of bytes above 0, received {size!r}.")
    unit = match[2]
    # The unit's first letter has the power, an "i" in it the base.
    power = 0 if unit == "B" else "KMGT".index(unit[0].upper()) + 1
    return float(float(match[1]) * (1024 if "i" in unit else 1000) ** power)
