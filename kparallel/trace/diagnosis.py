"""Why more devices did not make training faster, in one line, decided by the shares of time."""

from dataclasses import dataclass

from kparallel.planning.report import count
from kparallel.trace.summary import Summary

__all__: list[str] = []

# A cause is named from this share of the devices' time on.
INPUT = 0.2
REDUCTION = 0.2
STAGES = 0.2
SHARING = 0.2
OVERHEAD = 0.4
# A known efficiency below it is explained by the largest cause, however small.
EFFICIENT = 0.7
# Stages are unbalanced where the slowest takes so much more time than the mean.
UNBALANCED = 1.25


@dataclass(frozen=True)
class Diagnosis:
    """What limits training.

    Args:
        name: `"input-bound"`, `"communication-bound"`, `"unbalanced stages"`, `"pipeline bubble"`, `"too small"`,
            `"shared cores"` or `"scales well"`.
        text: The same with figures and the way out, in one line.
    """

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def diagnose(summary: Summary, efficiency: float | None = None) -> Diagnosis:
    """Say what limits training: of all attribute_time above their thresholds, the one that takes most of the time.

    Args:
        summary: What was measured.
        efficiency: The share of ideal speed-up, from 0 to 1, if it is known.

    Returns:
        The verdict; that training scales well where no cause reaches its threshold, unless it is known not to.
    """
    shares = summary.shares
    found = [
        (shares.input, INPUT, _input),
        (shares.reduction, REDUCTION, _communication),
        (shares.stage + shares.transfer, STAGES, _stages),
        (_lost_to_sharing(summary), SHARING, _cores),
        (shares.overhead, OVERHEAD, _too_small),
    ]
    above = [(share, say) for share, threshold, say in found if share >= threshold]
    if above:
        return max(above, key=lambda pair: pair[0])[1](summary)
    if _crowded(summary):
        return _cores(summary)
    if efficiency is not None and efficiency < EFFICIENT:
        return max(found, key=lambda cause: cause[0])[2](summary)
    work = shares.work + shares.update
    return Diagnosis("scales well", f"devices compute for {work:.0%} of a step's {_time(summary)}.")


def _crowded(summary: Summary) -> bool:
    """Tell whether the devices have more threads than there are cores."""
    return summary.cores is not None and summary.devices > 1 and summary.devices * summary.threads > summary.cores


def _lost_to_sharing(summary: Summary) -> float:
    """Return the share without a core, and how much longer stages wait for one another than their own times explain."""
    longer = max(0.0, summary.bubble - summary.bubble_of_stages) if _crowded(summary) else 0.0
    return summary.shares.sharing + longer


def _input(summary: Summary) -> Diagnosis:
    return Diagnosis(
        "input-bound",
        f"{summary.shares.input:.0%} of a step's {_time(summary)} is spent waiting for the next batch. Prepare data in "
        "parallel (num_parallel_calls in map), cache it, prefetch it.",
    )


def _communication(summary: Summary) -> Diagnosis:
    return Diagnosis(
        "communication-bound",
        f"{summary.shares.reduction:.0%} of a step's {_time(summary)} goes into summing gradients between replicas and "
        f"waiting for the slowest; {summary.shares.work:.0%} into computing. Use larger batches, or fewer replicas.",
    )


def _stages(summary: Summary) -> Diagnosis:
    waits = summary.shares.stage + summary.shares.transfer
    slowest, factor = summary.slowest, summary.imbalance
    if factor >= UNBALANCED:
        return Diagnosis(
            "unbalanced stages",
            f"stage {slowest} ({summary.layers_of(slowest)}) takes {factor:.1f} times the mean stage's time, others "
            f"wait {waits:.0%} of a step's {_time(summary)}. Move layers to other stages.",
        )
    return Diagnosis(
        "pipeline bubble",
        f"devices wait for another stage {waits:.0%} of a step's {_time(summary)}; the schedule alone leaves "
        f"{summary.bubble_planned:.0%} of the pipeline idle. Use more microbatches, or fewer stages.",
    )


def _cores(summary: Summary) -> Diagnosis:
    return Diagnosis(
        "shared cores",
        f"{summary.devices} virtual devices with {count(summary.threads, 'thread')} each share {summary.cores} cores: "
        f"of a step's {_time(summary)} they are ready but without a core for {summary.shares.sharing:.0%}, and wait "
        "for those that are. Use no more devices than cores, each with one thread.",
    )


def _too_small(summary: Summary) -> Diagnosis:
    return Diagnosis(
        "too small",
        f"{summary.shares.overhead:.0%} of a step's {_time(summary)} is spent on starting operations and in Python, "
        f"{summary.shares.work:.0%} on computing. Use larger batches or a larger model, jit_compile or "
        "steps_per_execution.",
    )


def _time(summary: Summary) -> str:
    return f"{summary.step_time * 1e3:.3g} ms"
