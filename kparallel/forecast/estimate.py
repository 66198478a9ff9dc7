"""What is predicted for one configuration: the time of a step, in terms, and the memory of a device."""

from dataclasses import dataclass, field

from kparallel.forecast.configuration import Configuration

__all__: list[str] = []

TERMS = ("compute", "recompute", "start", "bubble", "transfer", "reduction", "update")


@dataclass(frozen=True)
class StepTime:
    """The predicted time of a step, in seconds; the terms add up to it.

    Args:
        compute: Forward and backward passes on the device that has most to do.
        recompute: Forward passes that it runs again.
        start: Starting its actions.
        bubble: Its waiting for other stages.
        transfer: What activations and their gradients on the way add to that.
        reduction: Summing gradients over replicas, as far as no backward pass hides it; with `shard="optimizer"` also
            the way of new weights to the other replicas; with `shard="weights"` the waiting for weights too.
        update: The optimizer's update.
    """

    compute: float
    recompute: float
    start: float
    bubble: float
    transfer: float
    reduction: float
    update: float

    @property
    def total(self) -> float:
        """The time of the step."""
        # Each term says what it adds to those before it, so that the sum is the time.
        return float(sum(getattr(self, name) for name in TERMS))

    @property
    def bound_by(self) -> str:
        """The largest term."""
        return max(TERMS, key=lambda name: getattr(self, name))

    @property
    def limited_by(self) -> str:
        """What keeps more devices from computing more: the largest term but `compute`, if it is a tenth of the step."""
        # `TERMS[0]` is what devices are there for.
        largest = max(TERMS[1:], key=lambda name: getattr(self, name))
        return largest if getattr(self, largest) > 0.1 * self.total else "compute"


@dataclass(frozen=True)
class Estimate:
    """What is predicted for a configuration.

    Args:
        configuration: It.
        time: The time of a step.
        memory: Bytes on the fullest device.
        batch_size: The number of rows of a global batch.
        starts: The first segment of each stage.
    """

    configuration: Configuration
    time: StepTime
    memory: float
    batch_size: int
    starts: tuple[int, ...] = field(default=(0,), repr=False)

    @property
    def rows_per_second(self) -> float:
        """The predicted throughput."""
        return self.batch_size / self.time.total
