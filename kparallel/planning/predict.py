"""Predicts the time of a step by simulation. Times are relative: only ratios between plans have a meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from kparallel.schedule import Programs, clock, splits_backward

__all__: list[str] = []

# A backward pass takes about twice the time of a forward pass: it computes the gradients of inputs and of weights.
# Where it is split, each part takes half of that.
BACKWARD_COST = 2.0
# The time that it takes to start an action, as a fraction of the whole model's forward pass on a replica's share.
# With it the best number of microbatches is about four for each stage, beyond which GPipe's authors found no gain.
ACTION_OVERHEAD = 0.005


@dataclass(frozen=True)
class Prediction:
    """The predicted times of a plan.

    Args:
        step_time: The time of one training step; 1 is the time of one device for the whole batch at once.
        bubble: The fraction of the devices' time in which they are idle, from 0 to 1.
    """

    step_time: float
    bubble: float


def predict(
    shares: Sequence[float], programs: Programs, microbatches: int, replicas: float = 1, recompute: str = "never"
) -> Prediction:
    """Simulate one training step.

    All-reduces between replicas and transfers between stages are not counted, because they depend on the machine.

    Args:
        shares: The fraction of the model's cost of each stage; they sum to 1.
        programs: One program per lane.
        microbatches: The number of microbatches.
        replicas: The number of replicas, or the rows of a batch divided by the rows of its largest share. Default 1.
        recompute: `"never"` (default), `"always"` or `"except_last"`.

    Example:
        >>> from kparallel.schedule import one_f_one_b
        >>> predict([0.25] * 4, one_f_one_b(4, 16), 16).bubble.__round__(3)
        0.158

    Source of the formula of the bubble, (stages - 1) / (microbatches + stages - 1): Huang et al.,
    https://arxiv.org/abs/1811.06965.
    """
    times = clock(programs, *passes(shares, microbatches, recompute, splits_backward(programs)))
    # In the unit of `passes`, the whole model's forward pass on one microbatch: one device would run all
    # `microbatches` of them as one forward and one backward action, each with its overhead.
    one_device = microbatches * (1 + BACKWARD_COST + 2 * ACTION_OVERHEAD)
    return Prediction(times.makespan / (one_device * replicas), times.bubble)


def step_time_bound(
    shares: Sequence[float], microbatches: int, replicas: float, recompute: str, split: bool = False
) -> float:
    """Return a lower bound of the step time over all schedules with one stage per lane.

    A stage is busy for all microbatches. Before it starts, and after it ends, one microbatch passes through all earlier
    stages. If backward passes are split, the last way back may lie beside the gradients of the stage's weights.
    """
    forward, backward, weight = passes(shares, microbatches, recompute, split)
    # `times[stage]`: all passes of one microbatch.
    times = [sum(of_stage) for of_stage in zip(forward, backward, weight, strict=True)]
    back = [0.0] * len(times) if split else backward
    longest = max(microbatches * t + sum(forward[:stage]) + sum(back[:stage]) for stage, t in enumerate(times))
    return longest / (microbatches * (1 + BACKWARD_COST + 2 * ACTION_OVERHEAD) * replicas)


def even_replicas(batch_size: int, replicas: int) -> float:
    """Return the number of replicas that would be as fast if a batch could be divided exactly.

    The replica with the largest share determines the time.

    Example:
        >>> even_replicas(8, 4), even_replicas(9, 4)
        (4.0, 3.0)
    """
    return batch_size / ceil(batch_size / replicas)


def passes(
    shares: Sequence[float], microbatches: int, recompute: str = "never", split: bool = False
) -> tuple[list[float], list[float], list[float]]:
    """Return the times of each stage for a forward pass, a backward pass and its part `W` on one microbatch.

    Args:
        shares: The fraction of the model's cost of each stage.
        microbatches: The number of microbatches.
        recompute: `"never"`, `"always"` or `"except_last"`. The latter saves an equal part in all microbatches.
        split: Whether backward passes are split. If not, `W` takes no time. Default False.

    Returns:
        Times in units of the whole model's forward pass on one microbatch.
    """
    # The overhead is a fraction of a pass over the replica's whole share, which is `microbatches` times the unit.
    start = ACTION_OVERHEAD * microbatches
    # What a backward action runs forward once more. The last microbatch is one of `microbatches`; its saving is spread
    # over all, because the simulation knows one time for each stage.
    again = {"never": 0.0, "always": 1.0, "except_last": 1 - 1 / microbatches}[recompute]
    parts = 2 if split else 1
    forward = [share + start for share in shares]
    backward = [share * (BACKWARD_COST / parts + again) + start for share in shares]
    return forward, backward, [share * BACKWARD_COST / 2 + start if split else 0.0 for share in shares]
