"""Where the replicas of a process run, and what they communicate through."""

from dataclasses import dataclass

from kparallel.comm.communicator import Communicator
from kparallel.comm.group import WorkerGroup

__all__: list[str] = []


@dataclass(frozen=True)
class Placement:
    """Where the replicas of this process run, and what they communicate through.

    Args:
        rows: Full device names, one row for each replica of this process, one name for each stage.
        first_replica: Index of the first row's replica among all workers' replicas.
        replicas: How many replicas there are on all workers.
        communicators: One for each stage: between the devices of its column.
        group: The workers, for what they exchange between steps.
        compression: The dtype in which gradients travel, or None to leave them as they are.
    """

    rows: tuple[tuple[str, ...], ...]
    first_replica: int
    replicas: int
    communicators: tuple[Communicator, ...]
    group: WorkerGroup
    compression: str | None = None

    def abort(self) -> None:
        """After a step that failed: let no other worker wait for this one."""
        for communicator in self.communicators:
            communicator.abort()

    def renew(self) -> None:
        """Before the steps of another call: forget one that failed, if the workers have connected anew since."""
        for communicator in self.communicators:
            communicator.renew()
