"""A plan as one picture: above, the layers and devices of each stage; below, the schedule of one step.

```text
            stage 0      stage 1            layers, share of the work, bytes that pass between
replica 0   GPU:0        GPU:1              the mesh; a dashed line between two machines
GPU:0       F0 F1    B0 F2 B1    B2         the schedule, to the scale of the stages' costs
GPU:1          F0 B0 F1 B1 F2 B2
```
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kparallel.mesh import device_worker
from kparallel.planning.plot_style import (
    IDLE,
    TEXT_COLOR,
    color,
    draw_action,
    explained,
    new_figure,
    rectangle,
    save,
    text_color,
)
from kparallel.planning.predict import passes
from kparallel.planning.report import between_lines, brief, count, format_bytes, schedule_name
from kparallel.schedule import clock, splits_backward

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kparallel.planning.plan import Plan

__all__: list[str] = []

_LEFT, _ROW = 0.95, 0.36  # Inches: the margin with the names of lanes and replicas, and the height of a device.
_BOX = 0.74  # The part of a column that its boxes take; arrows take the rest.


def draw(plan: "Plan", path: str | Path | None = None) -> "Figure":
    """Draw a plan, and save it if a path is given.

    Args:
        plan: The plan.
        path: The file to write; its suffix determines the format. Default: no file.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    lanes = max(plan.lanes) + 1
    width = _width(plan)
    upper, lower = 2.35 + _ROW * plan.mesh.replicas, 0.45 * lanes
    below = 0.7 + 0.18 * len(between_lines(plan))
    height = 0.65 + upper + 0.65 + lower + below
    left = _left(plan)
    figure = new_figure("Plan.plot", width, height)
    figure.text(0.2 / width, 1 - 0.4 / height, _title(plan), fontsize=14, fontweight="bold", color=TEXT_COLOR)
    inner = 1 - (left + 0.25) / width
    if plan.mesh.stages > 1 and not plan.placed:
        note = "arrows: what one microbatch brings from earlier stages"
        figure.text(1 - 0.25 / width, 1 - 0.4 / height, note, ha="right", fontsize=9, color=TEXT_COLOR)
    _draw_mesh(figure.add_axes((left / width, 1 - (0.65 + upper) / height, inner, upper / height)), plan, upper)
    _draw_schedule(figure.add_axes((left / width, below / height, inner, lower / height)), plan, width)
    return save(figure, path)


def _left(plan: "Plan") -> float:
    """Return the margin in inches: names that tell a worker take more room."""
    return _LEFT + 0.07 * max(0, max(map(len, plan.mesh.rows[0])) - len("GPU:00"))


def _width(plan: "Plan") -> float:
    """Return the width in inches: room for a stage's layer names, and for the labels of a lane's actions."""
    actions = max(map(len, plan.programs()))
    return min(20.0, max(9.0, _LEFT + 2.4 * plan.mesh.stages, 0.36 * actions))


def _title(plan: "Plan") -> str:
    mesh = plan.mesh
    workers = "" if plan.workers == 1 else f" on {plan.workers} workers, {mesh.replicas} on each"
    shared = {None: "", "optimizer": ", optimizer shared out"}.get(plan.shard, ", weights shared out")
    return f"{plan.model_name}: {count(plan.replicas, 'replica')} × {count(mesh.stages, 'stage')}{workers}{shared}"


def _draw_mesh(axes: "Axes", plan: "Plan", height: float) -> None:
    """Draw a column for each stage: its layers in a box, below it its devices. The vertical unit is inches."""
    mesh = plan.mesh
    devices = _ROW * mesh.replicas
    # x   column `stage` begins at x = stage and is 1 wide: _BOX for its boxes, the rest for an arrow
    # y   0 ... devices ... height        inches, from below
    axes.set_xlim(0, mesh.stages - 1 + _BOX)
    axes.set_ylim(0, height)
    axes.axis("off")
    for stage, group in enumerate(plan.groups):
        stage_color, middle = color(stage), stage + _BOX / 2
        axes.text(
            middle, height - 0.2, f"stage {stage}", ha="center", fontsize=12, fontweight="bold", color=stage_color
        )
        axes.add_patch(rectangle(stage, devices + 0.1, _BOX, height - devices - 0.4, stage_color, 0.16))
        axes.text(middle, devices + 1.07, _content(group), ha="center", va="center", fontsize=9, color=TEXT_COLOR)
        if stage and device_worker(mesh.rows[0][stage]) != device_worker(mesh.rows[0][stage - 1]):
            axes.axvline(stage - (1 - _BOX) / 2, color=TEXT_COLOR, lw=1.0, ls=(0, (4, 3)), zorder=0)
        if stage and not plan.placed:
            _arrow(axes, stage, devices + 1.07, format_bytes(plan.rows_per_microbatch * group.arriving_bytes_per_row))
        for replica, row in enumerate(mesh.rows):
            at = devices - _ROW * (replica + 1)
            axes.add_patch(rectangle(stage, at + 0.04, _BOX, _ROW - 0.08, stage_color, 0.9))
            ink = text_color(stage_color)
            axes.text(middle, at + _ROW / 2, row[stage], ha="center", va="center", fontsize=9, color=ink)
    # A tenth of an inch to the left of the axes, in the unit of x.
    margin = -0.1 * axes.get_xlim()[1] / (axes.get_position().width * axes.figure.get_figwidth())  # type: ignore[union-attr]
    for replica in range(mesh.replicas):
        at = devices - _ROW * (replica + 0.5)
        axes.text(margin, at, f"replica {replica}", ha="right", va="center", fontsize=9, color=TEXT_COLOR)
    axes.text(margin, devices + 1.07, "layers", ha="right", va="center", fontsize=9, color=TEXT_COLOR)


def _content(group: Any) -> str:
    lines = brief(group.layers, 5).replace(", ", "\n")
    work = f"\n{group.share:.0%} of the work" if group.units or group.share == 1 else ""
    return f"{lines}\n\n{group.parameters:,} parameters{work}"


def _arrow(axes: "Axes", stage: int, height: float, text: str) -> None:
    style = {"arrowstyle": "-|>", "color": TEXT_COLOR, "lw": 1.2}
    axes.annotate("", xy=(stage, height), xytext=(stage - 1 + _BOX, height), arrowprops=style)
    middle = stage - (1 - _BOX) / 2
    axes.text(middle, height + 0.07, text, ha="center", fontsize=8, color=TEXT_COLOR)


def _draw_schedule(axes: "Axes", plan: "Plan", width: float) -> None:
    """Draw a lane for each device of a row and a box for each action, to the scale of time."""
    programs = plan.programs()
    shares = [group.share for group in plan.groups]
    times = clock(programs, *passes(shares, plan.microbatches, plan.recompute, splits_backward(programs)))
    # The simulated time that takes an inch of the picture: whether a label fits into a box is a matter of inches.
    inch = times.makespan / (width - _left(plan) - 0.25)
    for lane, program in enumerate(programs):
        axes.add_patch(rectangle(0, lane - 0.42, times.makespan, 0.84, IDLE, 1.0))
        for action in program:
            start, length = times.start[action], times.finish[action] - times.start[action]
            draw_action(axes, action, start, length, lane, length / inch)
    axes.set_xlim(0, times.makespan)
    # From below to above, so that lane 0 is at the top.
    axes.set_ylim(len(programs) - 0.5, -0.5)
    axes.set_yticks(range(len(programs)), list(dict.fromkeys(plan.mesh.rows[0])), fontsize=9, color=TEXT_COLOR)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_headline(plan), loc="left", fontsize=12, fontweight="bold", color=TEXT_COLOR, pad=8)
    axes.set_xlabel(_caption(plan), loc="left", fontsize=9, color=TEXT_COLOR, labelpad=8)


def _headline(plan: "Plan") -> str:
    text = "one training step" + ("" if plan.replicas == 1 else ", every replica alike")
    if plan.placed:
        return f"{text}: no pipeline, the layers run one after another"
    if plan.microbatches == 1 and plan.mesh.stages == 1:
        return text
    return f"{text}: {count(plan.microbatches, 'microbatch')}, schedule {schedule_name(plan)}"


def _caption(plan: "Plan") -> str:
    prediction = plan.predict()
    if plan.placed:
        return "time →   F0: forward, B0: backward, both by the layers' parameters; grey: the device waits"
    again = "" if plan.recompute == "never" else f" (which runs it forward again: recompute {plan.recompute})"
    wait = f"grey: the device waits, {prediction.bubble:.0%} of the time; " if prediction.bubble > 0.001 else ""
    return f"time →   {explained(plan.programs())}{again}\n" + "\n".join(
        [f"{wait}a step takes {prediction.step_time:.2f} of one device's time", *between_lines(plan)]
    )
