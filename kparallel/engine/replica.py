"""The context of one replica during a step."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kparallel.comm.communicator import Communicator
from kparallel.engine.placement import Placement
from kparallel.engine.stage_device import LayerDevices, StageDevice
from kparallel.stage.pipeline import Pipeline

__all__: list[str] = []


@dataclass(frozen=True)
class Replica:
    """One replica: its stages, its devices, and its communicators.

    Args:
        index: Its index among the replicas of all workers.
        pipeline: The stages.
        devices: The full names of its mesh row's devices: `[s]`, or one for each layer group of a model that cannot be
            cut.
        communicators: `[s]`: the communicator between the devices of a stage's column.
        replicas: The number of replicas.
        parts: The number of parts of a batch: replicas times microbatches.
        compression: The dtype in which gradients travel, or None to keep their own.
        values: `[s][w]` and `[s][v]`: the weights and the state to start from; None to read them from the variables.
    """

    index: int
    pipeline: Pipeline
    devices: tuple[str, ...]
    communicators: tuple[Communicator, ...]
    replicas: int
    parts: int
    compression: str | None
    values: tuple[list[list[Any]], list[list[Any]]] | None = None

    @classmethod
    def present(cls, pipeline: Pipeline, placement: Placement, microbatches: int) -> "Replica":
        """Return the replica whose replica context is active.

        Args:
            pipeline: The stages.
            placement: Where the replicas of this process run.
            microbatches: The number of microbatches of a share.
        """
        index = placement.communicators[-1].replica_index
        # `rows` has the replicas of this process alone.
        row = placement.rows[index - placement.first_replica]
        parts = placement.replicas * microbatches
        return cls(index, pipeline, row, placement.communicators, placement.replicas, parts, placement.compression)

    @property
    def stage_devices(self) -> tuple[StageDevice, ...]:
        """`[s]`: where each stage runs. A row that has more devices than stages has them for the layers."""
        stages = len(self.pipeline.stages)
        kind = StageDevice if len(self.devices) == stages else LayerDevices
        return tuple(kind(name) for name in self.devices[:stages])

    @property
    def is_single(self) -> bool:
        """Whether this is the only replica."""
        return self.replicas == 1

    @property
    def last(self) -> Communicator:
        """The last stage's communicator: losses and metrics are computed there."""
        return self.communicators[-1]

    def on_last_device(self) -> Any:
        """Return a context manager that places operations on the last stage's device."""
        return tf.device(self.devices[-1])
