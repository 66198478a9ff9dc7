"""The candidates of a search for a plan."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil

from kparallel.planning.plan import RECOMPUTE
from kparallel.planning.report import count

__all__: list[str] = []

# Steps of a third to a half: the predicted time changes little between neighbors, and each costs a simulation.
_MICROBATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Candidate:
    """One combination of replicas, stages, microbatches and recompute policy."""

    replicas: int
    stages: int
    microbatches: int
    recompute: str

    def __str__(self) -> str:
        parts = [count(self.replicas, "replica"), count(self.stages, "stage"), count(self.microbatches, "microbatch")]
        return f"{parts[0]} x {parts[1]}, {parts[2]}, recompute {self.recompute}"

    @property
    def plain(self) -> bool:
        """Whether this is plain data parallelism."""
        return self.stages == 1 and self.microbatches == 1 and self.recompute == "never"

    @property
    def simplicity(self) -> tuple[int, int, int, int]:
        """The sort key among equally fast candidates: few stages, few microbatches, no recomputation, many replicas."""
        return self.stages, self.microbatches, RECOMPUTE.index(self.recompute), -self.replicas


def candidates(
    devices: int, batch_size: int, most_stages: int, fixed: tuple[int | None, int | None, int | None, str | None]
) -> Iterator[Candidate]:
    """Yield every combination that the devices and the rows of a batch allow.

    Args:
        devices: The number of devices.
        batch_size: The number of rows of a global batch.
        most_stages: The largest number of stages into which the model can be cut.
        fixed: Replicas, stages, microbatches and recompute policy; None for those that are free.
    """
    replicas, stages, microbatches, recompute = fixed
    # More replicas than rows would leave a replica without work.
    for r, s in product(range(min(devices, batch_size), 0, -1), range(1, min(devices, most_stages) + 1)):
        if r * s > devices or replicas not in (None, r) or stages not in (None, s):
            continue
        rows = ceil(batch_size / r)
        for m in _MICROBATCHES if microbatches is None else (microbatches,):
            for policy in RECOMPUTE if recompute is None else (recompute,):
                # With one microbatch the last one is the only one, and "except_last" recomputes nothing: it is "never"
                # again.
                if 1 <= m <= rows and not (m == 1 and policy == "except_last"):
                    yield Candidate(r, s, m, policy)
