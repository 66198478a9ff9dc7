"""The plan: the decision about what runs where. It is made once, frozen and printable, and knows no tensors."""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from kparallel.errors import PlanError
from kparallel.mesh import Mesh
from kparallel.planning.memory import Memory, stage_memory
from kparallel.planning.predict import Prediction, even_replicas, predict
from kparallel.planning.report import report
from kparallel.schedule import Programs, Schedule, deferred, in_flight, programs_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__: list[str] = []

RECOMPUTE = ("never", "always", "except_last")


def check_shard(shard: str | None) -> None:
    """Check what the replicas are to share out among themselves.

    Raises:
        PlanError: The value is unknown.
    """
    if shard not in (None, "optimizer", "weights"):
        raise PlanError(f"Expected shard to be 'auto', None, 'optimizer' or 'weights', received {shard!r}.")


@dataclass(frozen=True)
class LayerGroup:
    """The layers of one stage.

    Args:
        layers: The names of the layers, in topological order.
        parameters: The number of weights, trainable or not.
        weight_bytes: The bytes of these weights on one device.
        units: The indices of the stage's calls in the model's graph; empty if the model is one stage.
        share: The stage's fraction of the model's cost, from 0 to 1; an estimate, so not compared.
        activation_bytes_per_row: The bytes that a forward pass keeps for one row; an estimate.
        arriving_bytes_per_row: The bytes that the stage reads from earlier stages for one row; an estimate.
        frozen_bytes: The bytes of those weights that are not trained, and so have no gradient and no slots.
        largest_bytes: The bytes of the largest weight that is trained.
        arriving_from: The bytes that it reads from each earlier stage for one row; an estimate, empty if unknown.
        loop_steps: The number of time steps that its recurrent layers run one after another.
    """

    layers: tuple[str, ...]
    parameters: int
    weight_bytes: int
    units: tuple[int, ...] = ()
    share: float = field(default=1.0, compare=False)
    activation_bytes_per_row: int = field(default=0, compare=False)
    arriving_bytes_per_row: int = field(default=0, compare=False)
    frozen_bytes: int = field(default=0, compare=False)
    largest_bytes: int = field(default=0, compare=False)
    arriving_from: tuple[int, ...] = field(default=(), compare=False)
    loop_steps: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Plan:
    """The decision how a model is distributed over devices; `print` it to read it, `plot` it to see it.

    Two plans are equal if they decide the same. Estimates and the reason are not compared.

    Args:
        model_name: The name of the model for which it was made.
        mesh: The devices.
        groups: One layer group per stage.
        microbatches: The number of parts into which each replica's share of a batch is split.
        schedule: The name of the schedule, or a function of (stages, microbatches).
        recompute: The forward passes that the backward pass recomputes: `"never"`, `"always"` or `"except_last"`.
        batch_size: The number of rows of a global batch, for estimates of memory; default unknown.
        slots: The number of optimizer variables for each weight, for estimates of memory; default 2, as for Adam.
        reason: Why a search chose the plan; default empty.
        workers: The number of workers that share a batch, each with such a mesh, for estimates; default 1.
        shard: What the replicas share out among themselves: `"optimizer"`, its slots and the update of the weights;
            `"weights"`, the weights as well; None (default), nothing.
        shard_reason: Why it is shared out where the user left that open; default empty.

    Raises:
        PlanError: `microbatches` is below 1 or above a replica's rows; `recompute` or the schedule is unknown; there is
            one replica and `shard` is given.
        ScheduleError: The schedule breaks a law of schedules.

    Example:
        >>> print(Plan("mlp", Mesh((("CPU:0",), ("CPU:1",))), (LayerGroup(("a", "b"), 10, 40),)))
        plan for 'mlp': 2 replicas x 1 stage
                    stage 0
        replica 0   CPU:0
        replica 1   CPU:1
        stage 0: 2 layers, 10 parameters, 40 B of weights on each of CPU:0, CPU:1
    """

    model_name: str
    mesh: Mesh
    groups: tuple[LayerGroup, ...]
    microbatches: int = 1
    schedule: str | Schedule = "1f1b"
    recompute: str = "never"
    batch_size: int | None = field(default=None, compare=False)
    slots: float = field(default=2, compare=False)
    reason: str = field(default="", compare=False)
    workers: int = field(default=1, compare=False)
    shard: str | None = None
    shard_reason: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.microbatches < 1:
            raise PlanError(f"Expected at least 1 microbatch, received {self.microbatches}.")
        if self.recompute not in RECOMPUTE:
            raise PlanError(f"Expected recompute to be one of {RECOMPUTE}, received {self.recompute!r}.")
        self._check_shard()
        if self.groups and len(self.groups) != self.mesh.stages:
            raise PlanError(f"Expected {self.mesh.stages} layer groups for this mesh, received {len(self.groups)}.")
        rows = self.rows_per_replica
        if rows is not None and self.microbatches > rows:
            raise PlanError(
                f"Expected at most {rows} microbatches for a batch of {self.batch_size} rows, which gives a replica "
                f"{rows}, received {self.microbatches}. Use larger batches, or say microbatches={rows}."
            )
        # Made once to be checked, so that a plan which exists is one that can run.
        self.programs()

    def _check_shard(self) -> None:
        check_shard(self.shard)
        if self.shard is not None and self.replicas == 1:
            what = "the optimizer's slots" if self.shard == "optimizer" else "the weights"
            raise PlanError(
                f"Expected several replicas for shard={self.shard!r}, received 1: nothing is shared out, since it has "
                f"nobody to share {what} with. Say shard=None, or replicas=2 or more."
            )

    @property
    def replicas(self) -> int:
        """The number of replicas on all workers."""
        return self.workers * self.mesh.replicas

    @property
    def placed(self) -> bool:
        """Whether the layers of a model that cannot be cut are placed on devices by name, without a pipeline."""
        return len(self.groups) > 1 and not any(group.units for group in self.groups)

    @property
    def rows_per_replica(self) -> int | None:
        """The number of rows of the largest share; None if the batch size is unknown."""
        return None if self.batch_size is None else ceil(self.batch_size / self.replicas)

    @property
    def lanes(self) -> tuple[int, ...]:
        """The lane of each stage. A lane is one device of a row; its stages run one after another."""
        # row      GPU:0  GPU:1  GPU:0  GPU:1      one device for each stage
        # lanes      0      1      0      1        numbered by first occurrence
        # Row 0 is enough: the mesh refuses rows that do not put the same stages on one device.
        row = self.mesh.rows[0]
        order = list(dict.fromkeys(row))
        return tuple(order.index(name) for name in row)

    @property
    def rows_per_microbatch(self) -> int:
        """The number of rows of the largest microbatch; 1 if the batch size is unknown."""
        rows = self.rows_per_replica
        return 1 if rows is None else ceil(rows / self.microbatches)

    def programs(self) -> Programs:
        """Return the actions of each lane."""
        return programs_for(self.schedule, self.mesh.stages, self.microbatches, self.lanes)

    def memory(self, stage_index: int) -> Memory:
        """Estimate a stage's memory on one device. Without a `batch_size` a microbatch has one row."""
        group, rows, programs = self.groups[stage_index], self.rows_per_microbatch, self.programs()
        return stage_memory(
            group.weight_bytes,
            rows * group.activation_bytes_per_row,
            rows * group.arriving_bytes_per_row,
            in_flight(programs)[stage_index],
            self.recompute,
            self.slots,
            group.frozen_bytes,
            self.replicas if self.shard else 1,
            group.largest_bytes,
            deferred(programs)[stage_index],
            brought=self.shard == "weights",
        )

    def predict(self) -> Prediction:
        """Estimate the time of a step, and the fraction of time in which devices are idle."""
        # Without a batch size the replicas count as evenly loaded: one row for each.
        shares = [group.share for group in self.groups]
        speed = even_replicas(self.batch_size or self.replicas, self.replicas)
        return predict(shares, self.programs(), self.microbatches, speed, self.recompute)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Draw the mesh, the layer groups and the schedule as one picture.

        Args:
            path: The file to write; its suffix determines the format, such as `"plan.svg"`. Default: no file.

        Returns:
            The Matplotlib figure.

        Raises:
            ImportError: Matplotlib is not installed.
        """
        # Matplotlib is an extra, and slow to import.
        from kparallel.planning.plot import draw

        return draw(self, path)

    def __str__(self) -> str:
        return report(self)
