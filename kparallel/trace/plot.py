"""Plots one step, planned and measured: the schedule in the simulation of the plan, and below it on the devices.

```text
planned    CPU:0     |F0|F1|   |B0|  |B1|
           CPU:1        |F0|B0|F1|B1|
measured   CPU:0  ▒▒ |F0|F1|    |B0|   |B1|  ▓ ▒▒      one lane for each device, to the same scale of time
           CPU:1  ▒▒    |F0| B0|F1| B1|     ▓ ▒▒
```
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kparallel.planning.plot_style import IDLE, TEXT_COLOR, draw_action, explained, new_figure, rectangle, save
from kparallel.planning.report import between_lines
from kparallel.trace.events import RecordedStep
from kparallel.trace.intervals import Span, union
from kparallel.trace.lanes import LaneStep, programs_of
from kparallel.trace.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__: list[str] = []

_REDUCTION, _UPDATE, _INPUT, _HOST = "#333333", "#8E8E8E", "#F0E442", "#FFFFFF"
_LEFT, _RIGHT, _LANE = 1.55, 0.3, 0.42  # Inches.


def draw(
    summary: Summary, steps: Sequence[RecordedStep], laid: Sequence[Sequence[LaneStep]], path: str | Path
) -> "Figure":
    """Draw the step with the median time, and save the picture.

    Args:
        summary: The figures.
        steps: The recorded steps.
        laid: `[step][lane]`.
        path: The file to write; its suffix determines the format.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    # A step in the middle shows the usual course, where a mean of steps would show none.
    median = sorted(range(len(steps)), key=lambda index: steps[index].end - steps[index].start)[len(steps) // 2]
    step, lanes = steps[median], laid[median]
    programs = programs_of(summary.plan)
    left = _LEFT + 0.07 * max(0, max(len(lane.lane.device) for lane in lanes) - len("GPU:00"))  # Names with a worker.
    width = min(20.0, max(10.0, left + _RIGHT + 0.3 * max(len(program) for program in programs) * 2))
    upper, lower = _LANE * len(programs), _LANE * len(lanes)
    height = 1.0 + upper + 0.55 + lower + 1.25
    figure = new_figure("The picture", width, height)
    figure.text(0.2 / width, 1 - 0.38 / height, _title(summary), fontsize=13, fontweight="bold", color=TEXT_COLOR)
    # In one program over several machines: what passes between them.
    between = "; ".join(between_lines(summary.plan))
    figure.text(0.2 / width, 1 - 0.6 / height, between, fontsize=9, color=TEXT_COLOR)
    inner = 1 - (left + _RIGHT) / width
    top = figure.add_axes((left / width, 1 - (1.0 + upper) / height, inner, upper / height))
    bottom = figure.add_axes((left / width, 1.25 / height, inner, lower / height))
    # The planned schedule is drawn from the first measured action on, so that both can be compared by eye.
    first = min((span[0] for lane in lanes for span in lane.slices.values()), default=step.graph[0])
    limit = max(step.end - step.start, first - step.start + summary.planned.makespan)
    inch = limit * 1e3 / (width - left - _RIGHT)
    _planned(top, summary, (first - step.start) * 1e3, inch)
    _measured(bottom, summary, step, lanes, inch)
    for axes in (top, bottom):
        axes.set_xlim(0, limit * 1e3)
        axes.tick_params(length=0, labelsize=9, colors=TEXT_COLOR)
        for spine in axes.spines.values():
            spine.set_visible(False)
    top.set_xticks([])
    bottom.set_xlabel("milliseconds from the step's start", loc="right", fontsize=9, color=TEXT_COLOR)
    _legend(figure, width, height, explained(programs))
    return save(figure, path)


def _title(summary: Summary) -> str:
    text = f"{summary.plan.model_name}: a step takes {summary.step_time * 1e3:.3g} ms"
    if len(summary.stage_times) > 1:
        text += f", slowest stage {summary.slowest}"
    return text


def _planned(axes: "Axes", summary: Summary, start: float, inch: float) -> None:
    programs, times = programs_of(summary.plan), summary.planned
    for lane, program in enumerate(programs):
        axes.add_patch(rectangle(start, lane - 0.42, times.makespan * 1e3, 0.84, IDLE, 1.0))
        for action in program:
            at, length = times.start[action] * 1e3, (times.finish[action] - times.start[action]) * 1e3
            draw_action(axes, action, start + at, length, lane, length / inch)
    axes.set_ylim(len(programs) - 0.5, -0.5)
    axes.set_yticks(range(len(programs)), [_stages(summary, lane) for lane in range(len(programs))])
    note = f": devices wait {times.bubble:.0%} of the time" if len(programs) > 1 else ""
    axes.set_title(f"planned, each replica{note}", loc="left", fontsize=11, color=TEXT_COLOR, pad=5)


def _stages(summary: Summary, lane: int) -> str:
    stages = [0] if summary.plan.placed else [s for s, own in enumerate(summary.plan.lanes) if own == lane]
    return f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}"


def _measured(axes: "Axes", summary: Summary, step: RecordedStep, lanes: Sequence[LaneStep], inch: float) -> None:
    def box(lane: int, span: Span, color: str, height: float = 0.84) -> None:
        start, end = ((moment - step.start) * 1e3 for moment in span)
        # At least a fiftieth of an inch wide: what is shorter would vanish.
        axes.add_patch(rectangle(start, lane - height / 2, max(end - start, inch / 50), height, color, 1.0, edge=0.0))

    def runs(spans: list[Span]) -> list[Span]:
        """Join spans whose gaps would be too small to see."""
        near = inch / 20 * 1e-3
        return [(start, end - near) for start, end in union((start, end + near) for start, end in spans)]

    for index, lane in enumerate(lanes):
        box(index, step.graph, IDLE)
        for span in step.fetching:
            box(index, span, _INPUT)
        for span in runs(lane.update):
            box(index, span, _UPDATE)
        for action, (start, end) in lane.slices.items():
            length = (end - start) * 1e3
            draw_action(axes, action, (start - step.start) * 1e3, length, index, length / inch)
        for span in runs(lane.reduction):
            box(index, span, _REDUCTION, 0.5)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_yticks(range(len(lanes)), [f"replica {lane.lane.replica}  {lane.lane.device}" for lane in lanes])
    note = f": devices wait {summary.bubble:.0%} of the time" if len(summary.stage_times) > 1 else ""
    axes.set_title(f"measured{note}", loc="left", fontsize=11, color=TEXT_COLOR, pad=5)


def _legend(figure: "Figure", width: float, height: float, labels: str) -> None:
    """Draw a legend of the colours, and what the labels of actions mean, at the bottom."""
    from matplotlib.patches import Patch

    texts = {
        _INPUT: "next batch",
        IDLE: "no action runs",
        _REDUCTION: "sums over replicas",
        _UPDATE: "update",
        _HOST: "Python",
    }
    patches = [Patch(facecolor=color, edgecolor="#BBBBBB", label=text) for color, text in texts.items()]
    place = ((_LEFT - 0.1) / width, 0.08 / height)
    figure.legend(handles=patches, loc="lower left", bbox_to_anchor=place, ncols=5, frameon=False, fontsize=9)
    note = f"{labels}; the colour is the stage's"
    figure.text(_LEFT / width, 0.5 / height, note, fontsize=9, color=TEXT_COLOR)
