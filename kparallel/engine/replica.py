"""One replica while its step runs."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kparallel.comm.communicator import Communicator
from kparallel.engine.placement import Placement
from kparallel.stage.pipeline import Pipeline

__all__: list[str] = []


@dataclass(frozen=True)
class Replica:
    """One replica: its stages, its devices, and what it communicates through.

    Args:
        index: Its index among all replicas of all workers.
        pipeline: The stages.
        devices: Its row: a full device name for each stage; for each layer group where layers are placed one by one.
        communicators: For each stage, between the replicas' devices of its column.
        replicas: How many replicas there are.
        parts: Into how many shares and microbatches a batch is divided.
        compression: The dtype in which gradients travel, or None.
    """

    index: int
    pipeline: Pipeline
    devices: tuple[str, ...]
    communicators: tuple[Communicator, ...]
    replicas: int
    parts: int
    compression: str | None

    @classmethod
    def present(cls, pipeline: Pipeline, placement: Placement, microbatches: int) -> "Replica":
        """Return the replica in whose context this is called.

        Args:
            pipeline: The stages.
            placement: Where the replicas of this process run.
            microbatches: Into how many microbatches a share is divided.
        """
        index = placement.communicators[-1].replica_index
        row = placement.rows[index - placement.first_replica]
        parts = placement.replicas * microbatches
        return cls(index, pipeline, row, placement.communicators, placement.replicas, parts, placement.compression)

    @property
    def is_single(self) -> bool:
        """Whether there is no other replica."""
        return self.replicas == 1

    @property
    def last(self) -> Communicator:
        """The communicator of the last stage, where losses and metrics are computed."""
        return self.communicators[-1]

    def on_last_device(self) -> Any:
        """Return the context of the last stage's device."""
        return tf.device(self.devices[-1])
