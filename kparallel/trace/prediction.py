"""A forecast's prediction of a step beside what was measured: which term is off.

Both divide the step of the device that computes longest:

```text
predicted   compute + recompute | start    | bubble | transfer | reduction | update |
measured    work                | overhead | stage  | transfer | reduction | update | input | sharing
```
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kparallel.errors import PlanError
from kparallel.forecast.estimate import Estimate, StepTime
from kparallel.forecast.forecast import Forecast
from kparallel.planning.report import count, schedule_name

if TYPE_CHECKING:
    from kparallel.planning.plan import Plan

__all__: list[str] = []

# By the term that the line names: the terms of a prediction, and the cause in the breakdown of a recording.
_TERMS: dict[str, tuple[tuple[str, ...], str]] = {
    "compute": (("compute", "recompute"), "work"),
    "start": (("start",), "overhead"),
    "bubble": (("bubble",), "stage"),
    "transfer": (("transfer",), "transfer"),
    "reduction": (("reduction",), "reduction"),
    "update": (("update",), "update"),
    "input": ((), "input"),
    "shared cores": ((), "sharing"),
}


def estimate_of(predicted: Forecast | Estimate, plan: "Plan") -> Estimate:
    """Return the prediction for a plan.

    Args:
        predicted: A forecast, whose fastest ways are searched for the plan, or one of its ways.
        plan: The plan.

    Raises:
        PlanError: None of them is the plan's; a prediction for another plan would name the wrong term.
    """
    candidates = [predicted] if isinstance(predicted, Estimate) else [*predicted.best, predicted.runs]
    for each in candidates:
        if each is not None and _same(each, plan):
            return each
    raise PlanError(
        f"Expected a prediction for the plan of the model, {_text(plan)}, received those for "
        f"{'; '.join(dict.fromkeys(str(each.configuration) for each in candidates if each is not None))}. Give "
        "kparallel.plan(..., cluster=) the same replicas, stages, microbatches, schedule, recompute and shard."
    )


def terms(predicted: StepTime, measured: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the seconds of each term, predicted and measured.

    Args:
        predicted: The prediction.
        measured: Seconds of the device that computes longest, by the names of `Breakdown`.

    Example:
        >>> told = StepTime(0.1, 0.0, 0.01, 0.0, 0.0, 0.005, 0.005)
        >>> terms(told, {"work": 0.11, "reduction": 0.028})["reduction"]
        (0.005, 0.028)
    """
    return {
        name: (sum(getattr(predicted, part) for part in parts), measured.get(cause, 0.0))
        for name, (parts, cause) in _TERMS.items()
    }


def prediction_line(estimate: Estimate, step_time: float, measured: Mapping[str, float]) -> str:
    """Say how far a prediction is off, and which of its terms most.

    Args:
        estimate: The prediction.
        step_time: The measured seconds of a step.
        measured: As of `terms`.
    """
    of_each = terms(estimate.time, measured)
    name, (told, took) = max(of_each.items(), key=lambda item: abs(item[1][1] - item[1][0]))
    return (
        f"predicted {estimate.time.total * 1e3:.3g} ms for a batch of {count(estimate.batch_size, 'row')}, measured "
        f"{step_time * 1e3:.3g} ms: off by most is {name} (predicted {told * 1e3:.3g}, measured {took * 1e3:.3g})"
    )


def _same(estimate: Estimate, plan: "Plan") -> bool:
    made = estimate.configuration
    shape = made.replicas, made.stages, made.lanes, made.microbatches
    if shape != (plan.replicas, plan.mesh.stages, len(set(plan.lanes)), plan.microbatches):
        return False
    # With one stage all schedules are the same, and on one device with one microbatch as well.
    alike = made.stages == 1 or (made.lanes == 1 and made.microbatches == 1)
    if not alike and made.schedule != schedule_name(plan):
        return False
    return (made.recompute, made.shard) == (plan.recompute, plan.shard)


def _text(plan: "Plan") -> str:
    parts = [count(plan.replicas, "replica"), count(plan.mesh.stages, "stage"), count(plan.microbatches, "microbatch")]
    parts += [f"schedule {schedule_name(plan)}"] if plan.mesh.stages > 1 else []
    return ", ".join([*parts, f"recompute {plan.recompute}", f"shard {plan.shard}"])
