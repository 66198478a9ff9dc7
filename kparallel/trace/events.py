"""From what a profiler recorded to the steps in it: their operations, their batches, their start and end.

```text
host thread   |-- mark ---------------------------------------|      one call of the training function
                 |next batch|  |-- graph ----------------|
pool threads                     |op| |op|  |op| ...
```
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kparallel.trace.spans import Span, union

__all__: list[str] = []

MARK = "kparallel step"
# TensorFlow's names for: one operation, an operation that ends on another thread, and what Python's thread runs.
_OPERATION = re.compile(r"([\w.\-/>]+):(\w+)")
_STARTED, _DONE = "ExecutorState::ProcessAsync::Start", "ExecutorState::ProcessAsync::Done"
_GRAPH = "EagerLocalExecute: __inference_"
_NEXT = re.compile(r"(EagerLocalExecute: )?\w*IteratorGetNext\w*")
# Bookkeeping: no work, and the receiving end of a transfer lasts as long as one waits for it.
_IDLE = {"_Send", "_Recv", "_HostSend", "_HostRecv", "Const", "NoOp", "_Arg", "_Retval", "_DeviceArg", "_DeviceRetval"}


@dataclass(frozen=True)
class Event:
    """One entry of a profile.

    Args:
        thread: Name of the thread, or of a device's stream.
        name: As TensorFlow names it.
        start: Seconds.
        end: Seconds.
        stats: What TensorFlow notes beside.
    """

    thread: str
    name: str
    start: float
    end: float
    stats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One operation that ran.

    Args:
        name: The name of the graph's node, with its scopes.
        kind: Its type, such as `"MatMul"`.
        start: Seconds.
        end: Seconds.
    """

    name: str
    kind: str
    start: float
    end: float

    @property
    def span(self) -> Span:
        """When it ran."""
        return self.start, self.end


@dataclass(frozen=True)
class Step:
    """One recorded training step.

    Args:
        start: Seconds.
        end: Seconds.
        graph: When the graph ran.
        fetching: When the host waited for the next batch.
        operations: What ran.
    """

    start: float
    end: float
    graph: Span
    fetching: tuple[Span, ...]
    operations: tuple[Operation, ...]


def steps(events: Iterable[Event]) -> list[Step]:
    """Find the training steps in a profile.

    Args:
        events: Those of all threads; each call of the training function stands inside an event named `MARK`.

    Returns:
        The steps in order of time; a call of several steps gives several.
    """
    events = sorted(events, key=lambda event: event.start)
    found: list[Step] = []
    operations = _operations(events)
    for mark in (event for event in events if event.name.split("#")[0] == MARK):
        inside = [e for e in events if e.thread == mark.thread and mark.start <= e.start and e.end <= mark.end]
        runs = _graph_runs(inside)
        fetching = union((e.start, e.end) for e in inside if _NEXT.fullmatch(e.name))
        # Not from the mark: in a cluster workers wait for one another there, behind their callbacks.
        called = {run.name.removeprefix(_GRAPH).rpartition("_")[0] for run in runs}
        begun = [e.start for e in inside if e.name in called or _NEXT.fullmatch(e.name) or e.name.startswith(_GRAPH)]
        start = min(begun, default=mark.start)
        for index, run in enumerate(runs):
            end = mark.end if index == len(runs) - 1 else run.end
            own = tuple(o for o in operations if run.start <= o.start and o.end <= run.end)
            batches = [*fetching, *(o.span for o in own if _NEXT.fullmatch(o.kind))]
            own = tuple(o for o in own if not _NEXT.fullmatch(o.kind))
            kept = tuple((max(a, start), min(b, end)) for a, b in union(batches) if a < end and b > start)
            found.append(Step(start, end, (run.start, run.end), kept, own))
            start = end
    return found


def _graph_runs(events: list[Event]) -> list[Event]:
    """Return the runs of the function that takes most of the time: the step, and not what callbacks compute."""
    time: Counter[str] = Counter()
    for event in events:
        if event.name.startswith(_GRAPH):
            time[event.name] += event.end - event.start  # type: ignore[assignment]
    most = time.most_common(1)
    return [event for event in events if most and event.name == most[0][0]]


def _operations(events: list[Event]) -> list[Operation]:
    """Return the operations; one that ends on another thread lasts from its start to when it is done."""
    found: list[Operation] = []
    open_: dict[tuple[str, str, str], float] = {}
    for event in events:
        if event.name in (_STARTED, _DONE):
            key = (event.stats.get("name", ""), event.stats.get("kernel_type", ""), event.stats.get("step_id", ""))
            if event.name == _STARTED:
                open_[key] = event.start
            elif key in open_ and key[1] not in _IDLE:
                found.append(Operation(key[0], key[1], open_.pop(key), event.start))
            continue
        match = _OPERATION.fullmatch(event.stats.get("tf_op", event.name))
        if match and match[2] not in _IDLE:
            found.append(Operation(match[1], match[2], event.start, event.end))
    return found
