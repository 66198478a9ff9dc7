"""The plan: what runs where, decided once, frozen and printable. Knows nothing of tensors."""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from kparallel.errors import PlanError
from kparallel.mesh import Mesh
from kparallel.planning.memory import Memory, stage_memory
from kparallel.planning.predict import Prediction, even_replicas, predict
from kparallel.planning.report import report
from kparallel.schedule import Programs, Schedule, in_flight, programs_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__: list[str] = []

RECOMPUTE = ("never", "always", "except_last")


@dataclass(frozen=True)
class LayerGroup:
    """The layers of one stage.

    Args:
        layers: Names of the layers, in topological order.
        parameters: Number of weights, trainable or not.
        weight_bytes: Bytes of these weights on one device.
        units: Numbers of the stage's calls in the model's graph; empty where the model is one stage.
        share: The stage's part of the model's cost, from 0 to 1; an estimate, so not compared.
        activation_bytes_per_row: What a forward pass keeps for one row; an estimate.
        arriving_bytes_per_row: What the stage reads from earlier stages for one row; an estimate.
        frozen_bytes: Bytes of those weights that are not trained and so have no gradient and no slots.
    """

    layers: tuple[str, ...]
    parameters: int
    weight_bytes: int
    units: tuple[int, ...] = ()
    share: float = field(default=1.0, compare=False)
    activation_bytes_per_row: int = field(default=0, compare=False)
    arriving_bytes_per_row: int = field(default=0, compare=False)
    frozen_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Plan:
    """The decision how a model is spread over devices; `print` it to read it, `plot` it to see it.

    Two plans are equal when they decide the same; estimates and the reason do not count.

    Args:
        model_name: Name of the model that it was made for.
        mesh: The devices.
        groups: One layer group per stage.
        microbatches: Into how many parts each replica's share of a batch is split.
        schedule: Its name, or a function of (stages, microbatches).
        recompute: `"never"`, `"always"` or `"except_last"`: which forward passes are run again for the backward.
        batch_size: Rows of a batch over all replicas, for estimates of memory; default unknown.
        slots: Optimizer variables for each weight, for estimates of memory; default 2, as Adam has.
        reason: Why a search chose it; default empty.
        workers: How many workers share a batch, each with such a mesh, for estimates; default 1.

    Raises:
        PlanError: `microbatches` is below 1 or above a replica's rows, `recompute` or the schedule is unknown.
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

    def __post_init__(self) -> None:
        if self.microbatches < 1:
            raise PlanError(f"Expected at least 1 microbatch, received {self.microbatches}.")
        if self.recompute not in RECOMPUTE:
            raise PlanError(f"Expected recompute to be one of {RECOMPUTE}, received {self.recompute!r}.")
        if self.groups and len(self.groups) != self.mesh.stages:
            raise PlanError(f"Expected {self.mesh.stages} layer groups for this mesh, received {len(self.groups)}.")
        rows = self.rows_per_replica
        if rows is not None and self.microbatches > rows:
            raise PlanError(
                f"Expected at most {rows} microbatches for a batch of {self.batch_size} rows, which gives a replica "
                f"{rows}, received {self.microbatches}. Use larger batches, or say microbatches={rows}."
            )
        self.programs()

    @property
    def replicas(self) -> int:
        """Number of replicas on all workers."""
        return self.workers * self.mesh.replicas

    @property
    def placed(self) -> bool:
        """Whether layers are placed by name only, for a model whose call is Python of its own: no pipeline."""
        return len(self.groups) > 1 and not any(group.units for group in self.groups)

    @property
    def rows_per_replica(self) -> int | None:
        """Rows of the replica that gets most of a batch; None where the batch size is unknown."""
        return None if self.batch_size is None else ceil(self.batch_size / self.replicas)

    @property
    def lanes(self) -> tuple[int, ...]:
        """Index of each stage's lane: stages on one device run one after another."""
        row = self.mesh.rows[0]
        order = list(dict.fromkeys(row))
        return tuple(order.index(name) for name in row)

    @property
    def rows_per_microbatch(self) -> int:
        """Rows of the largest microbatch; 1 where the batch size is unknown."""
        rows = self.rows_per_replica
        return 1 if rows is None else ceil(rows / self.microbatches)

    def programs(self) -> Programs:
        """Return the actions of each lane."""
        return programs_for(self.schedule, self.mesh.stages, self.microbatches, self.lanes)

    def memory(self, stage_index: int) -> Memory:
        """Estimate the memory of a stage on one device, activations for `batch_size` (or one row a microbatch)."""
        group, rows = self.groups[stage_index], self.rows_per_microbatch
        return stage_memory(
            group.weight_bytes,
            rows * group.activation_bytes_per_row,
            rows * group.arriving_bytes_per_row,
            in_flight(self.programs())[stage_index],
            self.recompute,
            self.slots,
            group.frozen_bytes,
        )

    def predict(self) -> Prediction:
        """Estimate the time of a step and the share of time in which devices wait."""
        shares = [group.share for group in self.groups]
        speed = even_replicas(self.batch_size or self.replicas, self.replicas)
        return predict(shares, self.programs(), self.microbatches, speed, self.recompute)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Draw the mesh, the layer groups and the schedule as one picture.

        Args:
            path: Where to save it; the ending tells the format, such as `"plan.svg"`. Default it is not saved.

        Returns:
            The Matplotlib figure.

        Raises:
            ImportError: Matplotlib is not installed.
        """
        from kparallel.planning.plot import draw

        return draw(self, path)

    def __str__(self) -> str:
        return report(self)
