"""A forecast as text."""

from collections.abc import Sequence

from kparallel.forecast.estimate import TERMS, Estimate, StepTime
from kparallel.forecast.hardware import Hardware
from kparallel.forecast.quantity import seconds
from kparallel.forecast.runnable import needs_one_program
from kparallel.planning.report import count, format_bytes

__all__: list[str] = []

# What a step is bound by, and what helps against it.
_ADVICE = {
    "compute": "arithmetic: more devices, or a dtype with more FLOP/s",
    "recompute": "forward passes that run again: more memory, or more stages",
    "start": "starting actions: fewer microbatches, or larger batches",
    "bubble": "waiting in the pipeline: larger batches for more microbatches, or fewer stages",
    "transfer": "activations on the way between stages: fewer stages, or faster links",
    "reduction": "gradients on the way between replicas: larger batches, or faster links",
    "update": "the optimizer's update: larger batches, or shard='optimizer'",
}


def report(
    model_name: str, hardware: Hardware, batch_size: int, best: Sequence[Estimate], runs: Estimate | None
) -> str:
    """Return the text of `print(forecast)`: a line for each configuration, and what bounds the first."""
    machines = "" if hardware.machines == 1 else f"{count(hardware.machines, 'machine')} of "
    head = ["", "step", "rows/s", "memory", "bound by", "plan"]
    rows = [head]
    for number, each in enumerate(best, 1):
        rows.append([str(number), *_cells(each)])
    if runs is not None and runs not in best:
        rows.append(["runs", *_cells(runs)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        f"forecast for {model_name!r} on {machines}{hardware.name!r}, {count(hardware.devices, 'device')}, batches of "
        f"{count(batch_size, 'row')}: predicted, not measured"
    ]
    for row in rows:
        left = [cell.rjust(width) for cell, width in zip(row[:4], widths, strict=False)]
        lines.append("   ".join([*left, row[4].ljust(widths[4]), row[5]]).rstrip())
    lines.append(f"the first is bound by {_ADVICE[best[0].time.bound_by]}")
    return "\n".join([*lines, _today(best, runs, hardware)])


def shares(time: StepTime, most: int = 2) -> str:
    """Return the largest terms of a step with their share of it.

    Example:
        >>> shares(StepTime(6.0, 0.0, 0.0, 3.0, 0.5, 0.5, 0.0))
        'compute 60%, bubble 30%'
    """
    largest = sorted(TERMS, key=lambda name: -getattr(time, name))[:most]
    return ", ".join(f"{name} {getattr(time, name) / time.total:.0%}" for name in largest if getattr(time, name) > 0)


def _cells(each: Estimate) -> list[str]:
    rate = each.rows_per_second
    return [
        seconds(each.time.total),
        f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}",
        format_bytes(each.memory),
        shares(each.time),
        str(each.configuration),
    ]


def _today(best: Sequence[Estimate], runs: Estimate | None, hardware: Hardware) -> str:
    """Say which of them kparallel runs today, and how to ask for it."""
    if runs is None:
        return (
            "kparallel runs none today: the stages of a replica, or the replicas of a stage, have to be on one machine"
        )
    name = f"number {best.index(runs) + 1}" if runs in best else "the last line"
    made = runs.configuration
    # Only what differs from the defaults, so that the line can be copied.
    options = [f"replicas={made.replicas}"]
    if made.stages > 1:
        options += [f"stages={made.stages}", f"schedule={made.schedule!r}"]
    if made.microbatches > 1:
        options += [f"microbatches={made.microbatches}"]
    options += [f"recompute={made.recompute!r}"] if made.recompute != "never" else []
    options += [f"shard={made.shard!r}"] if made.shard is not None else []
    one = needs_one_program(made, hardware)
    how = f" in one program, kparallel run -n {hardware.machines} --one-program," if one else ""
    return f"the fastest that kparallel runs today is {name}:{how} kparallel.wrap(model, {', '.join(options)})"
