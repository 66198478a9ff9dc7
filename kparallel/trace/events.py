"""Finds the training steps in a profile: their start and end, operations, and waits for batches.

```text
host thread   |-- mark ------------------------------------------------------|      one call of the training function
                 |-- other --|  |next batch|  |-- graph ----------------|
pool threads       |op|  |op|                    |op| |op|  |op| ...
```

Other graphs may run in the same call: messages between workers, and computations of callbacks. They may take longer
than the graph of the step.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kparallel.schedule import BACKWARD
from kparallel.trace.attribution import Owner
from kparallel.trace.intervals import Span, union

__all__: list[str] = []

MARK = "kparallel step"
# TensorFlow's names for an operation, for one that ends on another thread, and for a graph that Python's thread runs.
_OPERATION = re.compile(r"([\w.\-/>]+):(\w+)")
_STARTED, _DONE = "ExecutorState::ProcessAsync::Start", "ExecutorState::ProcessAsync::Done"
_GRAPH = "EagerLocalExecute: __inference_"
_NEXT = re.compile(r"(EagerLocalExecute: )?\w*IteratorGetNext\w*")
# Operations that do no work. The receiving end of a transfer lasts as long as the wait for it.
_IDLE = {"_Send", "_Recv", "_HostSend", "_HostRecv", "Const", "NoOp", "_Arg", "_Retval", "_DeviceArg", "_DeviceRetval"}


@dataclass(frozen=True)
class Event:
    """One entry of a profile.

    Args:
        thread: The name of the thread, or of a device's stream.
        name: TensorFlow's name.
        start: The start time in seconds.
        end: The end time in seconds.
        stats: TensorFlow's further attributes.
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
        name: The name of the graph's node, with its name scopes.
        kind: The type, such as `"MatMul"`.
        start: The start time in seconds.
        end: The end time in seconds.
    """

    name: str
    kind: str
    start: float
    end: float

    @property
    def span(self) -> Span:
        """The time span in which it ran."""
        return self.start, self.end


@dataclass(frozen=True)
class RecordedStep:
    """One recorded training step.

    Args:
        start: The start time in seconds.
        end: The end time in seconds.
        graph: The time span in which the graph ran.
        fetching: The time spans in which the host waited for the next batch.
        operations: The operations that ran.
    """

    start: float
    end: float
    graph: Span
    fetching: tuple[Span, ...]
    operations: tuple[Operation, ...]


def calls(events: Iterable[Event], owner: Callable[[Operation], Owner]) -> list[list[RecordedStep]]:
    """Find the training steps in a profile.

    Args:
        events: The events of all threads. Each call of the training function is inside an event named `MARK`.
        owner: Returns the part of a step to which an operation belongs.

    Returns:
        `[call][step]`, in order of time. A call has one step, several, or none if it found the end of the data.
    """
    events = sorted(events, key=lambda event: event.start)
    # TensorFlow appends #step_num=...# to the name of a mark.
    marks = [event for event in events if event.name.split("#")[0] == MARK]
    by_call = [
        [e for e in events if e.thread == mark.thread and mark.start <= e.start and e.end <= mark.end] for mark in marks
    ]
    operations = _operations(events)
    graphs = [[_Graph.of(e, operations, owner) for e in part if e.name.startswith(_GRAPH)] for part in by_call]
    # Decided over the whole recording: a call that found the data at their end shows no backward pass.
    names = _training(graph for part in graphs for graph in part)
    return [
        _steps(mark, part, [graph for graph in of_call if graph.event.name in names])
        for mark, part, of_call in zip(marks, by_call, graphs, strict=True)
    ]


@dataclass(frozen=True)
class _Graph:
    """One run of a graph.

    Args:
        event: The run, on the host's thread.
        operations: The operations that ran, including those that fetch batches.
        evidence: Whether it trains: 2 with a backward pass or an update, 1 with a forward pass, else 0.
    """

    event: Event
    operations: tuple[Operation, ...]
    evidence: int

    @classmethod
    def of(cls, event: Event, operations: Iterable[Operation], owner: Callable[[Operation], Owner]) -> "_Graph":
        # The start decides. An operation that another thread has finished may end after the graph in the record.
        ran = tuple(o for o in operations if event.start <= o.start <= event.end)
        return cls(event, ran, max((_evidence(owner(o)) for o in ran if not _NEXT.fullmatch(o.kind)), default=0))


def _evidence(owner: Owner) -> int:
    if owner.kind == "update" or (owner.action is not None and owner.action.kind == BACKWARD):
        return 2
    return 1 if owner.action is not None else 0


def _training(graphs: Iterable[_Graph]) -> set[str]:
    """Return the names of the graphs that train: one for each number of rows.

    Only these have a backward pass or an update. If no operation shows it, the graph that takes the most time trains.
    """
    graphs = list(graphs)
    highest = max((graph.evidence for graph in graphs), default=0)
    time: Counter[str] = Counter()
    for graph in graphs:
        if graph.evidence == highest:
            time[graph.event.name] += graph.event.end - graph.event.start  # type: ignore[assignment]
    return set(time) if highest == 2 else {name for name, _ in time.most_common(1)}


def _steps(mark: Event, host_events: list[Event], graphs: list[_Graph]) -> list[RecordedStep]:
    """Return the steps of one call, one for each run of a graph that trains."""
    steps: list[RecordedStep] = []
    fetching = union((e.start, e.end) for e in host_events if _NEXT.fullmatch(e.name))
    # The step does not start at the mark: in a cluster the workers wait there for one another, after their callbacks.
    called = {graph.event.name.removeprefix(_GRAPH).rpartition("_")[0] for graph in graphs}
    called |= {graph.event.name for graph in graphs}
    start = min((e.start for e in host_events if e.name in called or _NEXT.fullmatch(e.name)), default=mark.start)
    for index, graph in enumerate(graphs):
        run = graph.event
        end = mark.end if index == len(graphs) - 1 else run.end
        batches = [*fetching, *(o.span for o in graph.operations if _NEXT.fullmatch(o.kind))]
        ran = tuple(o for o in graph.operations if not _NEXT.fullmatch(o.kind))
        waits = tuple((max(a, start), min(b, end)) for a, b in union(batches) if a < end and b > start)
        steps.append(RecordedStep(start, end, (run.start, run.end), waits, ran))
        start = end
    return steps


def _operations(events: list[Event]) -> list[Operation]:
    """Return the operations. One that ends on another thread lasts from its start event to its done event."""
    operations: list[Operation] = []
    starts: dict[tuple[str, str, str], float] = {}
    for event in events:
        if event.name in (_STARTED, _DONE):
            key = (event.stats.get("name", ""), event.stats.get("kernel_type", ""), event.stats.get("step_id", ""))
            if event.name == _STARTED:
                # By name, type and step: one operation runs once in a step, but several steps may overlap in the
                # record.
                starts[key] = event.start
            elif key in starts and key[1] not in _IDLE:
                operations.append(Operation(key[0], key[1], starts.pop(key), event.start))
            continue
        match = _OPERATION.fullmatch(event.stats.get("tf_op", event.name))
        if match and match[2] not in _IDLE:
            operations.append(Operation(match[1], match[2], event.start, event.end))
    return operations
