"""The devices of a process's replicas, and the communicators between them."""

from dataclasses import dataclass

from kparallel.comm.communicator import Communicator
from kparallel.comm.group import WorkerGroup

__all__: list[str] = []


@dataclass(frozen=True)
class Placement:
    """The devices of this process's replicas, and the communicators between them.

    Args:
        rows: `[replica][s]`: full device names, for the replicas of this process.
        first_replica: The index of the first row's replica among the replicas of all workers.
        replicas: The number of replicas on all workers.
        communicators: `[s]`: the communicator between the devices of a stage's column.
        group: The workers, for messages between steps.
        compression: The dtype in which gradients travel, or None to keep their own.
    """

    rows: tuple[tuple[str, ...], ...]
    first_replica: int
    replicas: int
    communicators: tuple[Communicator, ...]
    group: WorkerGroup
    compression: str | None = None

    def abort(self) -> None:
        """Close the communicators after a failed step, so that no other worker waits for this one."""
        for communicator in self.communicators:
            communicator.abort()

    def renew(self) -> None:
        """Drop what a failed step left, if the workers have connected anew since. Call it before the next steps."""
        for communicator in self.communicators:
            communicator.renew()
