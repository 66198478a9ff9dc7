"""Divides the time of a lane in a step among causes. Each moment has one cause, so the fractions sum to 1.

```text
|fetch|host|  0F0  |..waits for 1B0..|sends|  0B0  |....sums gradients....| update |host|
 input  over  work       stage        transfer work         reduction       update  overhead
```
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kparallel.schedule import Action
from kparallel.trace.events import RecordedStep
from kparallel.trace.intervals import Span, concurrent, length, union, within, without
from kparallel.trace.lanes import Lane, LaneStep

__all__: list[str] = []

_NEAR = 1e-9  # Seconds within which two moments are equal, except for rounding.


@dataclass(frozen=True)
class Breakdown:
    """Fractions of a device's time, from 0 to 1; they sum to 1.

    Args:
        work: Forward and backward passes.
        update: The optimizer's update.
        reduction: Summing gradients between replicas, and waiting for the slowest of them.
        stage: Waiting until another stage has computed the inputs of an action, or has finished too.
        transfer: From then until the action starts.
        input: Waiting for the next batch.
        sharing: Ready to run while all cores were busy with other devices' work (virtual CPU devices only).
        overhead: Everything else: Python, starting operations, logs.
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
        """Communication between replicas and between stages, with the waiting."""
        return self.reduction + self.stage + self.transfer


def attribute_time(
    step: RecordedStep,
    lane: LaneStep,
    lanes: Sequence[LaneStep],
    stages: int,
    cores: int | None,
    beside: Collection[Lane] | None = None,
) -> dict[str, float]:
    """Divide the time of one lane in a step among the causes.

    Args:
        step: The step.
        lane: The lane.
        lanes: All lanes of this worker, including this one.
        stages: The number of stages.
        cores: The number of cores that the lanes share, or None if each device computes by itself.
        beside: The lanes that share them; default all.

    Returns:
        Seconds, by the names of `Breakdown`.
    """
    # The causes take their time one after another. A moment that fits several belongs to the first that takes it.
    seconds: Counter[str] = Counter()
    remaining = [(step.start, step.end)]

    def take(cause: str, spans: list[Span]) -> None:
        nonlocal remaining
        seconds[cause] += length(within(remaining, spans))  # type: ignore[assignment]
        remaining = without(remaining, spans)

    # The order is the answer to "what was this moment spent on": work counts before waiting, a known wait before an
    # unknown one.
    take("work", lane.work)
    take("update", lane.update)
    take("input", union(step.fetching))
    take("overhead", without([(step.start, step.end)], [step.graph]))
    take("reduction", lane.reduction)
    # When each action of this replica ended, on whichever lane. What the lane waits for is one of these.
    finish = {
        a: end for other in lanes if other.lane.replica == lane.lane.replica for a, (_, end) in other.slices.items()
    }
    waits = [wait for gap in remaining for wait in _waits(gap, lane, finish, stages)]
    for cause in ("stage", "reduction"):
        take(cause, union(span for why, span in waits if why == cause))
    if cores is not None:
        # All cores at work for other lanes: this one could have run, and had none.
        near = [other for other in lanes if other is not lane and (beside is None or other.lane in beside)]
        others = [span for other in near for span in [*other.work, *other.update]]
        take("sharing", concurrent(others, cores))
    take("transfer", union(span for why, span in waits if why == "transfer"))
    take("overhead", remaining)
    return dict(seconds)


def _waits(gap: Span, lane: LaneStep, finish: dict[Action, float], stages: int) -> list[tuple[str, Span]]:
    """Return (cause, span) for the parts of a gap: waiting for another stage, for an all-reduce, or for a transfer."""
    start, end = gap
    if start >= lane.last - _NEAR:
        # After the last action: first the all-reduce of the own gradients, then waiting until the other stages are
        # done.
        summed = max(start, min(end, lane.reduction[-1][1])) if lane.reduction else start
        finished = max(summed, min(end, max(finish.values(), default=start)))
        return [("reduction", (start, summed)), ("stage", (summed, finished))]
    # The action that runs in the gap or comes next. Small operations of an action may run before its slice.
    action = min((a for a, span in lane.slices.items() if span[1] > end), key=lane.slices.__getitem__)
    ready = start
    # The gap lies before the action, so its inputs may have been missing. A gap within it is no wait for a stage.
    if lane.slices[action][0] >= start - _NEAR:
        ready = max([ready, *(min(finish.get(need, start), end) for need in action.needs(stages))])
    if any(abs(moment - end) < _NEAR for moment, _ in lane.reduction):
        return [("stage", (start, ready)), ("reduction", (ready, end))]
    return [("stage", (start, ready)), ("transfer", (ready, end))] if ready > start else []


def average(parts: Sequence[dict[str, float]]) -> Breakdown:
    """Return the fractions of the total time of several lanes and steps."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    time = sum(total.values())
    return Breakdown(**{cause: seconds / time for cause, seconds in total.items()}) if time else Breakdown()
