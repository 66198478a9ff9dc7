"""From what a profiler recorded to the steps in it: their operations, their batches, their start and end.

```text
host thread   |-- mark ------------------------------------------------------|      one call of the training function
                 |-- other --|  |next batch|  |-- graph ----------------|
pool threads       |op|  |op|                    |op| |op|  |op| ...
```

Other graphs run beside: workers' messages and what callbacks compute. They may take longer than the step's own.
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


def calls(events: Iterable[Event], owner: Callable[[Operation], Owner]) -> list[list[Step]]:
    """Find the training steps in a profile.

    Args:
        events: Those of all threads; each call of the training function stands inside an event named `MARK`.
        owner: Tells whose work an operation is.

    Returns:
        The steps of each call in order of time: one, several, or none where a call found the data at its end.
    """
    events = sorted(events, key=lambda event: event.start)
    marks = [event for event in events if event.name.split("#")[0] == MARK]
    inside = [
        [e for e in events if e.thread == mark.thread and mark.start <= e.start and e.end <= mark.end] for mark in marks
    ]
    operations = _operations(events)
    graphs = [[_Graph.of(e, operations, owner) for e in part if e.name.startswith(_GRAPH)] for part in inside]
    names = _training(graph for part in graphs for graph in part)
    return [
        _steps(mark, part, [graph for graph in some if graph.event.name in names])
        for mark, part, some in zip(marks, inside, graphs, strict=True)
    ]


@dataclass(frozen=True)
class _Graph:
    """One run of a graph.

    Args:
        event: When it ran, on the host's thread.
        operations: What ran, with the fetching of batches inside of it.
        evidence: That it trains: 2 with a backward pass or an update, 1 with a forward pass, else 0.
    """

    event: Event
    operations: tuple[Operation, ...]
    evidence: int

    @classmethod
    def of(cls, event: Event, operations: Iterable[Operation], owner: Callable[[Operation], Owner]) -> "_Graph":
        # One that another thread has finished may end in its own thread's record after the graph.
        own = tuple(o for o in operations if event.start <= o.start <= event.end)
        return cls(event, own, max((_evidence(owner(o)) for o in own if not _NEXT.fullmatch(o.kind)), default=0))


def _evidence(owner: Owner) -> int:
    if owner.kind == "update" or (owner.action is not None and owner.action.kind == BACKWARD):
        return 2
    return 1 if owner.action is not None else 0


def _training(graphs: Iterable[_Graph]) -> set[str]:
    """Return the names of the graphs that train: one for each number of rows.

    Only they have a backward pass or an update. Where no operation tells, it is the graph that takes most of the time.
    """
    graphs = list(graphs)
    highest = max((graph.evidence for graph in graphs), default=0)
    time: Counter[str] = Counter()
    for graph in graphs:
        if graph.evidence == highest:
            time[graph.event.name] += graph.event.end - graph.event.start  # type: ignore[assignment]
    return set(time) if highest == 2 else {name for name, _ in time.most_common(1)}


def _steps(mark: Event, inside: list[Event], graphs: list[_Graph]) -> list[Step]:
    """Return the steps of one call, one for each run of a graph that trains."""
    found: list[Step] = []
    fetching = union((e.start, e.end) for e in inside if _NEXT.fullmatch(e.name))
    # Not from the mark: in a cluster workers wait for one another there, behind their callbacks.
    called = {graph.event.name.removeprefix(_GRAPH).rpartition("_")[0] for graph in graphs}
    called |= {graph.event.name for graph in graphs}
    start = min((e.start for e in inside if e.name in called or _NEXT.fullmatch(e.name)), default=mark.start)
    for index, graph in enumerate(graphs):
        run = graph.event
        end = mark.end if index == len(graphs) - 1 else run.end
        batches = [*fetching, *(o.span for o in graph.operations if _NEXT.fullmatch(o.kind))]
        own = tuple(o for o in graph.operations if not _NEXT.fullmatch(o.kind))
        kept = tuple((max(a, start), min(b, end)) for a, b in union(batches) if a < end and b > start)
        found.append(Step(start, end, (run.start, run.end), kept, own))
        start = end
    return found


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
