"""One combination of everything that the search may choose."""

from dataclasses import dataclass

from kparallel.errors import PlanError
from kparallel.planning.plan import RECOMPUTE
from kparallel.planning.report import count
from kparallel.schedule import registered

__all__: list[str] = []

NEIGHBORS = ("stages", "replicas")


@dataclass(frozen=True)
class Configuration:
    """A way to train a model on a cluster.

    Args:
        replicas: The number of replicas.
        lanes: The number of devices of a replica.
        stages: The number of stages of a replica, a multiple of `lanes`.
        microbatches: The number of parts into which a replica's share of a batch is split.
        schedule: The name of the schedule.
        recompute: `"never"`, `"always"` or `"except_last"`.
        shard: `"optimizer"`, `"weights"` (one device for each replica, with several stages on it), or None.
        neighbors: What neighboring devices hold: `"stages"` (default), the stages of one replica, as kparallel places
            them; or `"replicas"`, the replicas of one stage.

    Example:
        >>> print(Configuration(4, 2, 2, 8, "1f1b", "always", "optimizer"))
        4 replicas x 2 stages, 8 microbatches, 1f1b, recompute always, shard optimizer
    """

    replicas: int
    lanes: int = 1
    stages: int = 1
    microbatches: int = 1
    schedule: str = "1f1b"
    recompute: str = "never"
    shard: str | None = None
    neighbors: str = "stages"

    @property
    def devices(self) -> int:
        """The number of devices that it takes."""
        return self.replicas * self.lanes

    @property
    def simplicity(self) -> tuple[object, ...]:
        """The sort key among equally fast configurations."""
        return (
            # Smaller is simpler: few stages, few microbatches, no recomputation, nothing shared out.
            self.stages,
            self.microbatches,
            self.recompute != "never",
            self.shard or "",
            self.schedule,
            self.neighbors,
        )

    def __str__(self) -> str:
        parts = [f"{count(self.replicas, 'replica')} x {count(self.stages, 'stage')}"]
        if self.microbatches > 1 or self.stages > 1:
            parts.append(count(self.microbatches, "microbatch"))
        if self.stages > 1:
            order = f"{self.schedule}, " if self.microbatches > 1 else ""
            dealt = f"{self.schedule} on {self.lanes} devices" if self.lanes > 1 else f"{order}all on one device"
            parts.append(self.schedule if self.stages == self.lanes else dealt)
        if self.recompute != "never":
            parts.append(f"recompute {self.recompute}")
        if self.shard is not None:
            parts.append(f"shard {self.shard}")
        if self.neighbors != "stages":
            parts.append(f"{self.neighbors} side by side")
        return ", ".join(parts)


@dataclass(frozen=True)
class Fixed:
    """What the user has fixed of a configuration; None, and `shard="auto"`, leave it to the search.

    Args:
        replicas, stages, microbatches, schedule, recompute, shard: As in `Configuration`.

    Raises:
        PlanError: `recompute` or the schedule is unknown.
    """

    replicas: int | None = None
    stages: int | None = None
    microbatches: int | None = None
    schedule: str | None = None
    recompute: str | None = None
    shard: str | None = "auto"

    def __post_init__(self) -> None:
        if self.recompute not in (None, *RECOMPUTE):
            raise PlanError(f"Expected recompute to be one of {RECOMPUTE}, received {self.recompute!r}.")
        if self.schedule is not None:
            registered(self.schedule)

    def __str__(self) -> str:
        names = ("replicas", "stages", "microbatches", "schedule", "recompute")
        given = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) is not None]
        return ", ".join(given + ([f"shard={self.shard!r}"] if self.shard != "auto" else [])) or "nothing more"
