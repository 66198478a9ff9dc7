"""Where a lane's time goes in a step: each moment belongs to one cause, so that the shares sum to 1.

```text
|fetch|host|  0F0  |..waits for 1B0..|sends|  0B0  |....sums gradients....| update |host|
 input  over  work       stage        transfer work         reduction       update  overhead
```
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kparallel.schedule import Action
from kparallel.trace.events import Step
from kparallel.trace.intervals import Span, concurrent, length, union, within, without
from kparallel.trace.lanes import LaneStep

__all__: list[str] = []

_NEAR = 1e-9  # Seconds: two moments that are one, but for rounding.


@dataclass(frozen=True)
class Breakdown:
    """Parts of a device's time, from 0 to 1; they sum to 1.

    Args:
        work: Forward and backward passes.
        update: The optimizer.
        reduction: Summing gradients between replicas, with the wait for the slowest of them.
        stage: Waiting until another stage has computed what an action reads, or has come to its end too.
        transfer: From then until the action starts.
        input: Waiting for the next batch.
        sharing: Ready, but every core of the machine was busy with another device's work (virtual CPU devices only).
        overhead: None of these: Python, starting operations, logs.
    """

    work: float = 0.0
    update: float = 0.0
    reduction: float = 0.0
    stage: float = 0.0
    transfer: float = 0.0
    input: float = 0.0
    sharing: float = 0.0
    overhead: float = 0.0

    @property
    def communication(self) -> float:
        """Between replicas and between stages, waiting included."""
        return self.reduction + self.stage + self.transfer


def attribute_time(
    step: Step, lane: LaneStep, lanes: Sequence[LaneStep], stages: int, cores: int | None
) -> dict[str, float]:
    """Divide a step's time on one lane among the attribute_time.

    Args:
        step: The step.
        lane: The lane.
        lanes: All lanes of this worker, the same among them.
        stages: Number of stages.
        cores: Cores that the lanes share, or None where each device computes by itself.

    Returns:
        Seconds by the names of `Breakdown`.
    """
    seconds: Counter[str] = Counter()
    whole = [(step.start, step.end)]

    def take(cause: str, spans: list[Span]) -> None:
        nonlocal whole
        seconds[cause] += length(within(whole, spans))  # type: ignore[assignment]
        whole = without(whole, spans)

    take("work", lane.work)
    take("update", lane.update)
    take("input", union(step.fetching))
    take("overhead", without([(step.start, step.end)], [step.graph]))
    take("reduction", lane.reduction)
    finish = {
        a: end for other in lanes if other.lane.replica == lane.lane.replica for a, (_, end) in other.slices.items()
    }
    waits = [wait for gap in whole for wait in _waits(gap, lane, finish, stages)]
    for cause in ("stage", "reduction"):
        take(cause, union(span for why, span in waits if why == cause))
    if cores is not None:
        others = [span for other in lanes if other is not lane for span in [*other.work, *other.update]]
        take("sharing", concurrent(others, cores))
    take("transfer", union(span for why, span in waits if why == "transfer"))
    take("overhead", whole)
    return dict(seconds)


def _waits(gap: Span, lane: LaneStep, finish: dict[Action, float], stages: int) -> list[tuple[str, Span]]:
    """Say of a gap for how long it waits for another stage, for a sum over replicas, and for a transfer."""
    start, end = gap
    if start >= lane.last - _NEAR:
        # Behind the last action: first for the own gradients' sum, then until the other stages are through as well.
        summed = max(start, min(end, lane.reduction[-1][1])) if lane.reduction else start
        through = max(summed, min(end, max(finish.values(), default=start)))
        return [("reduction", (start, summed)), ("stage", (summed, through))]
    # The action that is under way in the gap or comes next: bits of work may stand before a slice.
    action = min((a for a, span in lane.slices.items() if span[1] > end), key=lane.slices.__getitem__)
    ready = start
    if lane.slices[action][0] >= start - _NEAR:
        ready = max([ready, *(min(finish.get(need, start), end) for need in action.needs(stages))])
    if any(abs(moment - end) < _NEAR for moment, _ in lane.reduction):
        return [("stage", (start, ready)), ("reduction", (ready, end))]
    return [("stage", (start, ready)), ("transfer", (ready, end))] if ready > start else []


def average(parts: Sequence[dict[str, float]]) -> Breakdown:
    """Return the shares of the time that several lanes and steps took together."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    whole = sum(total.values())
    return Breakdown(**{cause: seconds / whole for cause, seconds in total.items()}) if whole else Breakdown()
