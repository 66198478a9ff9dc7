"""Names what limits the speed of training, from the fractions of time, in one line."""

from dataclasses import dataclass

from kparallel.planning.report import count
from kparallel.trace.summary import Summary

__all__: list[str] = []

# The fractions of the devices' time from which a cause is reported.
INPUT = 0.2
REDUCTION = 0.2
STAGES = 0.2
SHARING = 0.2
OVERHEAD = 0.4
# If a known efficiency is below this value, the largest cause is reported, however small.
EFFICIENT = 0.7
# Stages are unbalanced if the slowest takes at least this many times the mean time.
UNBALANCED = 1.25


@dataclass(frozen=True)
class Diagnosis:
    """What limits training.

    Args:
        name: `"input-bound"`, `"communication-bound"`, `"unbalanced stages"`, `"pipeline bubble"`, `"too small"`,
            `"shared cores"` or `"scales well"`.
        text: A line with figures and a remedy.
    """

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def diagnose(summary: Summary, efficiency: float | None = None) -> Diagnosis:
    """Return what limits training: of all causes above their thresholds, the one that takes the most time.

    Args:
        summary: The measurements.
        efficiency: The fraction of the ideal speed-up, from 0 to 1, or None if it is unknown.

    Returns:
        The diagnosis. If no cause reaches its threshold, training scales well, unless `efficiency` shows otherwise.
    """
    shares = summary.shares
    # The fraction of time, the threshold, and what explains it.
    causes = [
        (shares.input, INPUT, _input),
        (shares.reduction, REDUCTION, _communication),
        (shares.stage + shares.transfer, STAGES, _stages),
        (_lost_to_sharing(summary), SHARING, _cores),
        (shares.overhead, OVERHEAD, _too_small),
    ]
    above = [(share, explain) for share, threshold, explain in causes if share >= threshold]
    if above:
        return max(above, key=lambda pair: pair[0])[1](summary)
    # Nothing stands out, but the devices have too few cores: that alone explains a training that does not get faster.
    if _crowded(summary):
        return _cores(summary)
    if efficiency is not None and efficiency < EFFICIENT:
        return max(causes, key=lambda cause: cause[0])[2](summary)
    work = shares.work + shares.update
    return Diagnosis("scales well", f"devices compute for {work:.0%} of a step's {_time(summary)}.")


def _crowded(summary: Summary) -> bool:
    """Return whether the devices have more threads than the machine has cores."""
    return summary.cores is not None and summary.devices > 1 and summary.devices * summary.threads > summary.cores


def _lost_to_sharing(summary: Summary) -> float:
    """Return the fraction of time lost to shared cores: ready without a core, or waiting for a stage without one."""
    # The second part is the bubble that the stages' own times do not explain.
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
