"""The time of a step whose weights are brought to a replica's device for each run of actions of one stage.

```text
device    | F0 | F1 | F2 |    B2    |    B1    |    B0    |
link    w0| w1 | w2      | w1       |g2 w0     |g1        |g0      w: weights are brought, g: gradients go to owners
```

The weights of a run travel while the last action before it runs, and share the link with the gradients. Actions of one
stage in a row have the same weights: with GPipe's order each stage has one run forward and one backward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kparallel.forecast.timing import programs_of
from kparallel.schedule import BACKWARD, FORWARD, WEIGHT, Action

__all__: list[str] = []

_SIMULATED = 4  # Microbatches. Each further one takes about as long as the one before it.


@dataclass(frozen=True)
class _Run:
    """Actions of one stage in a row.

    Args:
        stage: The stage.
        seconds: What they take together.
        last: What the last one takes.
        ends: Whether the stage has no more of them: its gradients travel then.
    """

    stage: int
    seconds: float
    last: float
    ends: bool


def waiting(
    schedule: str,
    microbatches: int,
    forward: Sequence[float],
    backward: Sequence[float],
    weights: Sequence[float],
    split: Sequence[float] = (),
) -> float:
    """Return the seconds that weights and gradients on their way add to the passes of a step.

    Args:
        schedule: The name of the schedule, which runs all stages on one device.
        microbatches: The number of microbatches.
        forward: Seconds of a forward pass on one microbatch, by stage.
        backward: Seconds of a backward pass, by stage.
        weights: Seconds that the weights of a stage take from their owners; their gradients take as long to the owners.
        split: Seconds of the part `W` of a backward pass, by stage, for a schedule that splits it.

    Example:
        >>> waiting("gpipe", 8, [1.0, 1.0], [2.0, 2.0], [0.5, 0.5])  # The first weights, and the last gradients.
        1.0
    """
    seconds = {FORWARD: forward, BACKWARD: backward, WEIGHT: split}

    def runs(number: int) -> list[_Run]:
        return _runs(programs_of(schedule, len(weights), number, 1)[0], seconds)

    if microbatches <= _SIMULATED:
        return _simulated(runs(microbatches), weights)
    fewer, more, rest = runs(_SIMULATED - 1), runs(_SIMULATED), microbatches - _SIMULATED
    if len(fewer) == len(more):  # Further microbatches make the runs longer, and no more of them.
        longer = [
            replace(run, seconds=run.seconds + rest * (run.seconds - before.seconds))
            for before, run in zip(fewer, more, strict=True)
        ]
        return _simulated(longer, weights)
    late = _simulated(more, weights)
    return late + rest * (late - _simulated(fewer, weights))


def _runs(program: Sequence[Action], seconds: dict[str, Sequence[float]]) -> list[_Run]:
    final = {action.stage: index for index, action in enumerate(program)}
    runs: list[_Run] = []
    for index, action in enumerate(program):
        own, ends = seconds[action.kind][action.stage], final[action.stage] == index
        if runs and runs[-1].stage == action.stage:
            runs[-1] = _Run(action.stage, runs[-1].seconds + own, own, ends)
        else:
            runs.append(_Run(action.stage, own, own, ends))
    return runs


def _simulated(runs: Sequence[_Run], weights: Sequence[float]) -> float:
    # When the last run ended, when the next one's weights are there, and when the link is free.
    end, arrived = 0.0, weights[runs[0].stage]
    link = arrived
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        end = max(end, arrived) + run.seconds
        if following is not None:  # Asked for when the run's last action starts, and so before its gradients.
            link = arrived = max(link, end - run.last) + weights[following.stage]
        if run.ends:
            link = max(link, end) + weights[run.stage]
    return max(end, link) - sum(run.seconds for run in runs)
