"""What a plan is searched for: a model, devices, a batch, and what the user has fixed."""

from collections.abc import Sequence
from dataclasses import dataclass

from kparallel.planning.memory import parse_bytes
from kparallel.planning.units import Unit
from kparallel.schedule import Schedule

__all__: list[str] = []


@dataclass(frozen=True)
class Request:
    """What both searches take: the one for a fast plan, and the one for few stages of weights that are shared out.

    Args:
        units: The model's units.
        devices: The names of the devices.
        batch_size: The number of rows of a global batch.
        memory_per_device: The memory limit, such as `"8GB"`, or a number of bytes. Default no limit.
        model_name: The name of the model, for the plan.
        costs: The cost of each unit, in any unit of measure; default its FLOPs.
        schedule: The name of the schedule, or a function; default 1F1B.
        slots: The number of optimizer variables for each weight; default 2, as for Adam.
        replicas: Fixes the number of replicas; default free, as for the next three.
        stages: Fixes the number of stages.
        microbatches: Fixes the number of microbatches.
        recompute: Fixes the recompute policy.
    """

    units: Sequence[Unit]
    devices: Sequence[str]
    batch_size: int
    memory_per_device: str | float | None = None
    model_name: str = "model"
    costs: Sequence[float] | None = None
    schedule: str | Schedule = "1f1b"
    slots: float = 2
    replicas: int | None = None
    stages: int | None = None
    microbatches: int | None = None
    recompute: str | None = None

    @property
    def limit(self) -> float:
        """The bytes of a device; infinite without a limit."""
        return float("inf") if self.memory_per_device is None else parse_bytes(self.memory_per_device)

    @property
    def unit_costs(self) -> list[float]:
        """The cost of each unit."""
        return [unit.flops_per_row for unit in self.units] if self.costs is None else list(self.costs)
