"""Writes a recording in the format of Chrome's trace viewer, which Perfetto reads too.

Source: Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from kparallel.schedule import BACKWARD, FORWARD, WEIGHT
from kparallel.trace.events import RecordedStep
from kparallel.trace.intervals import Span
from kparallel.trace.lanes import LaneStep

__all__: list[str] = []

_HOST = 0
_KINDS = {FORWARD: "forward", BACKWARD: "backward", WEIGHT: "weight gradients"}
_ROWS = ("actions", "reduction", "update", "other")


def chrome(steps: Sequence[RecordedStep], laid: Sequence[Sequence[LaneStep]]) -> dict[str, Any]:
    """Return a recording as JSON: a process for the host and for each device, a slice for each action.

    Args:
        steps: The recorded steps.
        laid: `[step][lane]`.
    """
    # Times in the file are microseconds from the first step's start.
    origin = steps[0].start
    events = [_name("process_name", _HOST, 0, "host"), _name("thread_name", _HOST, 0, "steps")]
    events.append(_name("thread_name", _HOST, 1, "input"))
    for process, home in enumerate((lane.lane for lane in laid[0]), start=1):
        stages = ", ".join(map(str, home.stages))
        name = f"{home.device}: replica {home.replica}, {'stages' if len(home.stages) > 1 else 'stage'} {stages}"
        events.append(_name("process_name", process, 0, name))
        # Without it the viewer sorts processes by its own rule, and not in the order of the lanes.
        events.append({"name": "process_sort_index", "ph": "M", "pid": process, "args": {"sort_index": process}})
        events += [_name("thread_name", process, thread, row) for thread, row in enumerate(_ROWS)]
    for number, (step, lanes) in enumerate(zip(steps, laid, strict=True)):
        args = {"step": number}
        events.append(_slice(f"step {number}", "step", (step.start, step.end), origin, _HOST, 0, args))
        events += [_slice("next batch", "input", span, origin, _HOST, 1, args) for span in step.fetching]
        for process, lane in enumerate(lanes, start=1):
            events += _lane_slices(lane, origin, process, args)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _lane_slices(lane: LaneStep, origin: float, process: int, args: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for action, span in sorted(lane.slices.items(), key=lambda item: item[1]):
        more = {"stage": action.stage, "microbatch": action.microbatch, "replica": lane.lane.replica}
        yield _slice(str(action), _KINDS[action.kind], span, origin, process, 0, args | more)
    for thread, name in enumerate(_ROWS[1:], start=1):
        spans: list[Span] = getattr(lane, name)
        if spans and name != "other":  # From the first operation to the last: what is between waits for the rest.
            spans = [(spans[0][0], spans[-1][1])] if name == "update" else spans
        yield from (_slice(name, name, span, origin, process, thread, args) for span in spans)


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _slice(
    name: str, category: str, span: Span, origin: float, process: int, thread: int, args: dict[str, Any]
) -> dict[str, Any]:
    start, end = ((moment - origin) * 1e6 for moment in span)
    times = {"ts": round(start, 3), "dur": round(end - start, 3)}
    return {"name": name, "cat": category, "ph": "X", "pid": process, "tid": thread, **times, "args": args}
