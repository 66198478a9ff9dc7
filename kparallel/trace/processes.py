"""The processes that train, and the cores that their devices share: one, except in one program over machines."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kparallel.mesh import device_worker
from kparallel.trace.lanes import Lane

__all__: list[str] = []


@dataclass(frozen=True)
class Process:
    """A process of one program over several machines.

    Args:
        host: The machine that it runs on.
        cores: The numbers of the cores on which it may run.
        memory: What it holds in the host's memory, in bytes.
        most_memory: The same at its peak.
    """

    host: str
    cores: frozenset[int]
    memory: int
    most_memory: int

    def shares_cores(self, other: "Process") -> bool:
        """Return whether both may run on the same core."""
        return self.host == other.host and not self.cores.isdisjoint(other.cores)


@dataclass(frozen=True)
class Machine:
    """The machine of this worker.

    Args:
        cores: The number of cores that the devices share, or None if each device computes by itself.
        threads: The number of threads of one operation.
        worker: The index of this worker.
        processes: In one program over several machines, each worker's process, by its index; else empty.
    """

    cores: int | None = None
    threads: int = 1
    worker: int = 0
    processes: Mapping[int, Process] = field(default_factory=dict)

    def beside(self, lane: Lane, lanes: Iterable[Lane]) -> list[Lane]:
        """Return the lanes that may run on the same cores as a lane, with this one."""
        if not self.processes:
            return list(lanes)
        own = self._process(lane)
        return [each for each in lanes if own.shares_cores(self._process(each))]

    def cores_of(self, lane: Lane) -> int | None:
        """Return the number of cores that a lane shares with others, or None if its device computes by itself."""
        return self.cores if self.cores is None or not self.processes else len(self._process(lane).cores)

    def _process(self, lane: Lane) -> Process:
        # The lane of layers that are placed by name has several devices; it counts as one of the first's.
        return self.processes[device_worker(lane.device.partition(", ")[0]) or 0]
