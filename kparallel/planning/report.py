"""A plan as text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kparallel.planning.shares import shares
from kparallel.planning.traffic import traffic_between
from kparallel.schedule import chart, in_flight, splits_backward

if TYPE_CHECKING:
    from kparallel.planning.plan import LayerGroup, Plan

__all__: list[str] = []


def report(plan: "Plan") -> str:
    """Return the text of `print(plan)`: a few lines for one stage; tables and the schedule's chart for several."""
    lines = [_title(plan), str(plan.mesh)]
    # Three forms: one stage needs no table, layers that are placed by name have no schedule, and a pipeline has both.
    if len(plan.groups) <= 1:
        lines += [_one_line(plan, index, group) for index, group in enumerate(plan.groups)]
    elif plan.placed:
        lines += [_one_line(plan, index, group) for index, group in enumerate(plan.groups)]
        lines += [*_layers(plan), "no pipeline: the layers run one after another, each on its device"]
    else:
        lines += ["", _table(plan), "", *_layers(plan), "", *_schedule(plan), *_prediction(plan)]
        lines += [*_loops(plan), *between_lines(plan)]
    if plan.shard is not None:
        lines.append(_shared_out(plan))
    if plan.shard_reason:
        lines.append(f"shared out: {plan.shard_reason}")
    if plan.reason:
        lines.append(f"chosen: {plan.reason}")
    return "\n".join(lines)


def schedule_name(plan: "Plan") -> str:
    """Return the name of the plan's schedule."""
    return plan.schedule if isinstance(plan.schedule, str) else getattr(plan.schedule, "__name__", "own")


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural if need be."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("ch") else "s")


def format_bytes(number: float) -> str:
    """Return a number of bytes as text in a suitable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def brief(layers: Sequence[str], most: int = 6) -> str:
    """Return the names of layers; if there are many, the first ones and the last."""
    if len(layers) <= most + 1:
        return ", ".join(layers)
    return f"{', '.join(layers[: most - 1])}, … {len(layers) - most} more …, {layers[-1]}"


def _title(plan: "Plan") -> str:
    mesh = plan.mesh
    text = f"plan for {plan.model_name!r}: {count(plan.replicas, 'replica')} x {count(mesh.stages, 'stage')}"
    if plan.workers > 1:
        text += f" on {plan.workers} workers, {mesh.replicas} on each"
    if plan.placed:
        return text
    if mesh.stages > 1 or plan.microbatches > 1:
        text += f", {count(plan.microbatches, 'microbatch')}"
    if mesh.stages > 1:
        text += f", schedule {schedule_name(plan)}"
    return text + (f", recompute {plan.recompute}" if plan.recompute != "never" else "")


def _one_line(plan: "Plan", index: int, group: "LayerGroup") -> str:
    return (
        f"stage {index}: {count(len(group.layers), 'layer')}, {group.parameters:,} parameters, "
        f"{format_bytes(group.weight_bytes)} of weights {'over' if plan.shard == 'weights' else 'on each of'} "
        f"{', '.join(plan.mesh.column(index))}"
    )


def _shared_out(plan: "Plan") -> str:
    """Say what a device holds where the replicas share the optimizer out, or the weights too."""
    held, replicas = shares(plan), count(plan.replicas, "replica")
    slots = f"{format_bytes(held.slots)} of slots"
    if plan.shard == "optimizer":
        return f"optimizer shared out over {replicas}: about {slots} on a device"
    if not any(group.weight_bytes for group in plan.groups):
        return f"weights and optimizer shared out over {replicas}: the model has no weights yet"
    return (
        f"weights and optimizer shared out over {replicas}: about {format_bytes(held.weights)} of weights and {slots} "
        f"on a device between steps, and up to {format_bytes(held.brought)} of weights that are brought in a step"
    )


def _table(plan: "Plan") -> str:
    """Return the table of stages. All bytes are those on one device."""
    # By stage.
    flying = in_flight(plan.programs())
    head = ["", "layers", "parameters", "cost", "weights", "slots", "activations", "in flight", "arriving"]
    rows = [head]
    for index, group in enumerate(plan.groups):
        memory = plan.memory(index)
        rows.append(
            [
                f"stage {index}",
                str(len(group.layers)),
                f"{group.parameters:,}",
                f"{group.share:.0%}",
                format_bytes(float(memory.weights)),
                format_bytes(float(memory.slots)),
                format_bytes(float(memory.activations)),
                str(flying[index]),
                format_bytes(plan.rows_per_microbatch * group.arriving_bytes_per_row) if index else "-",
            ]
        )
    # Columns as wide as their widest cell.
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    unit = (
        "of one row a microbatch; give batch_size for a batch's"
        if plan.batch_size is None
        else (f"of {count(plan.rows_per_microbatch, 'row')} a microbatch")
    )
    return "\n".join([*lines, f"activations (at the peak) and arriving bytes (a microbatch's) are {unit}"])


def _layers(plan: "Plan") -> list[str]:
    return [f"stage {index}: {brief(group.layers)}" for index, group in enumerate(plan.groups)]


def _schedule(plan: "Plan") -> list[str]:
    names = list(dict.fromkeys(plan.mesh.rows[0]))
    same = "" if plan.replicas == 1 else ", the same on every replica"
    programs = plan.programs()
    parts = "; B: gradients of inputs, W: of weights" if splits_backward(programs) else ""
    return [f"schedule (2F0: stage 2, forward, microbatch 0{parts}){same}:", chart(programs, names)]


def _prediction(plan: "Plan") -> list[str]:
    prediction = plan.predict()
    return [
        f"predicted: devices wait {prediction.bubble:.0%} of the time (bubble); "
        f"a step takes {prediction.step_time:.2f} of one device's time"
    ]


def _loops(plan: "Plan") -> list[str]:
    """Warn where microbatches cost more than they gain: the prediction above divides all work by the rows."""
    looping = [index for index, group in enumerate(plan.groups) if group.loop_steps]
    if plan.microbatches == 1 or not looping:
        return []
    steps = ", ".join(f"stage {index} {plan.groups[index].loop_steps:,}" for index in looping)
    return [
        f"warning: recurrent layers loop over time ({steps} time steps); unless each step computes much, such a loop "
        "takes nearly as long for a microbatch as for the batch, so more microbatches make a step slower than "
        "predicted: compare with microbatches=1 and with one device"
    ]


def between_lines(plan: "Plan", batch_size: int | None = None) -> list[str]:
    """Return what passes between the machines of one program in a step, a line for each pair of them.

    Args:
        plan: The plan.
        batch_size: The rows of a batch; default the plan's, and for each row where that has none.
    """
    rows = batch_size or plan.batch_size
    unit = "for each row of a batch" if rows is None else f"for a batch of {count(rows, 'row')}"
    return [
        f"worker {each.source} to worker {each.target}: {format_bytes((rows or 1) * each.bytes_per_row)} of "
        f"activations {unit}, and as much of their gradients back"
        for each in traffic_between(plan)
    ]
