"""How long a step takes, before anything runs: a model of time in which only ratios mean something."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from kparallel.schedule import Programs, clock

__all__: list[str] = []

# A backward pass takes about twice the time of a forward pass: it computes the gradients of inputs and of weights.
BACKWARD_COST = 2.0
# What starting one action costs, as a part of the whole model's forward pass on a replica's share of the batch. It
# makes the best number of microbatches about four for each stage, beyond which GPipe's authors found no gain.
ACTION_OVERHEAD = 0.005


@dataclass(frozen=True)
class Prediction:
    """What a plan is expected to take.

    Args:
        step_time: Time of one training step; 1 is one device that takes the whole batch at once.
        bubble: Share of the devices' time in which they wait, from 0 to 1.
    """

    step_time: float
    bubble: float


def predict(
    shares: Sequence[float], programs: Programs, microbatches: int, replicas: float = 1, recompute: str = "never"
) -> Prediction:
    """Simulate one training step.

    Reduction between replicas and transfers between stages are not counted, for they depend on the machine.

    Args:
        shares: Each stage's part of the model's cost; they sum to 1.
        programs: One program per lane.
        microbatches: Number of microbatches.
        replicas: Number of replicas, or rows of a batch over the most rows of a replica. Default 1.
        recompute: `"never"` (default), `"always"` or `"except_last"`.

    Example:
        >>> from kparallel.schedule import one_f_one_b
        >>> predict([0.25] * 4, one_f_one_b(4, 16), 16).bubble.__round__(3)
        0.158

    Source of the bubble's formula, (stages - 1) / (microbatches + stages - 1): Huang et al.,
    https://arxiv.org/abs/1811.06965.
    """
    times = clock(programs, *passes(shares, microbatches, recompute))
    one_device = microbatches * (1 + BACKWARD_COST + 2 * ACTION_OVERHEAD)
    return Prediction(times.makespan / (one_device * replicas), times.bubble)


def wider_than(shares: Sequence[float], microbatches: int, replicas: float, recompute: str) -> float:
    """Return a step time that no schedule of these stages can beat, one stage for each lane.

    A stage works for all microbatches, and before it starts and after it ends one passes through all earlier stages.
    """
    both = [sum(pair) for pair in zip(*passes(shares, microbatches, recompute), strict=True)]
    longest = max(microbatches * own + sum(both[:stage]) for stage, own in enumerate(both))
    return longest / (microbatches * (1 + BACKWARD_COST + 2 * ACTION_OVERHEAD) * replicas)


def even_replicas(batch_size: int, replicas: int) -> float:
    """Return how many replicas would be as fast if rows could be split: the slowest has the most rows.

    Example:
        >>> even_replicas(8, 4), even_replicas(9, 4)
        (4.0, 3.0)
    """
    return batch_size / ceil(batch_size / replicas)


def passes(shares: Sequence[float], microbatches: int, recompute: str = "never") -> tuple[list[float], list[float]]:
    """Return each stage's times for a forward and for a backward pass on one microbatch.

    Args:
        shares: Each stage's part of the model's cost.
        microbatches: Number of microbatches.
        recompute: `"never"`, `"always"` or `"except_last"`; the latter is spread over all microbatches.

    Returns:
        Times in which the whole model's forward pass on one microbatch takes 1.
    """
    start = ACTION_OVERHEAD * microbatches
    again = {"never": 0.0, "always": 1.0, "except_last": 1 - 1 / microbatches}[recompute]
    return [share + start for share in shares], [share * (BACKWARD_COST + again) + start for share in shares]
