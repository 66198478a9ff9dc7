"""Steps found in a profile."""

from kparallel.trace.events import MARK, Event, Operation, calls
from tests.unit.made_steps import by_name


def made_up():
    """Two calls of the training function; the second has two steps, and an operation that ends on another thread."""

    def python(name, start, end):
        return Event("python/1", name, start, end)

    def done(what, moment, kind="PartitionedCall"):
        stats = {"name": "1F0/PartitionedCall", "kernel_type": kind, "step_id": "7"}
        return Event("pool/2", f"ExecutorState::ProcessAsync::{what}", moment, moment, stats)

    return [
        python("EagerLocalExecute: __inference_one_3", 0.0, 0.1),  # Outside: no step of training.
        python(f"{MARK}", 0.5, 2.0),
        python("EagerLocalExecute: IteratorGetNext", 1.0, 1.2),
        python("EagerLocalExecute: __inference_one_3", 1.3, 1.9),
        Event("pool/2", "0F0/dense/MatMul:MatMul", 1.4, 1.5),
        Event("pool/2", "0F0/dense/_1:_Send", 1.5, 1.6),
        Event("pool/2", "ExecutorState::Process", 1.4, 1.9),
        python(f"{MARK}#step_num=1#", 2.5, 6.0),
        python("one", 3.0, 4.0),
        python("EagerLocalExecute: __inference_one_3", 3.5, 4.0),
        Event("pool/2", "IteratorGetNext:IteratorGetNext", 3.5, 3.7),
        python("EagerLocalExecute: IteratorGetNext", 4.0, 4.5),
        python("EagerLocalExecute: __inference_small_9", 4.5, 4.6),
        python("EagerLocalExecute: __inference_one_3", 4.6, 5.6),
        done("Start", 4.7),
        done("Start", 4.7, "_Recv"),
        done("Done", 5.2),
        done("Done", 5.3, "_Recv"),
    ]


def test_steps_are_found_in_a_profile():
    [first], [second, third] = calls(made_up(), by_name)
    assert (first.start, first.end, first.graph) == (1.0, 2.0, (1.3, 1.9))
    assert first.fetching == ((1.0, 1.2),)
    assert first.operations == (Operation("0F0/dense/MatMul", "MatMul", 1.4, 1.5),)
    assert (second.start, second.end, second.graph) == (3.0, 4.0, (3.5, 4.0))
    assert second.fetching == ((3.5, 3.7),) and second.operations == ()
    assert (third.start, third.end, third.fetching) == (4.0, 6.0, ((4.0, 4.5),))
    assert third.operations == (Operation("1F0/PartitionedCall", "PartitionedCall", 4.7, 5.2),)
    assert calls([], by_name) == []


def test_a_step_is_the_graph_that_trains_however_long_others_take():
    """A call waits for other workers' messages, evaluates for a callback, and trains on two numbers of rows."""
    graphs = [("gather_3", 0.0, 4.0), ("one_5", 4.5, 4.6), ("one_9", 4.7, 4.8), ("one_7", 5.0, 9.0)]
    graphs += [("gather_3", 10.2, 10.9)]  # A call that finds the data at its end.
    work = [("while/add", 0.5), ("0B0/x", 4.55), ("update/adam/mul", 4.75), ("0F0/x", 6.0), ("while/add", 10.5)]
    events = [Event("python/1", MARK, -1.0, 9.5), Event("python/1", MARK, 10.0, 11.0)]
    events += [Event("python/1", f"EagerLocalExecute: __inference_{name}", *span) for name, *span in graphs]
    # The last operation of a graph may end in its thread's record after the graph.
    events += [Event("pool/2", f"{name}:Mul", start, start + 0.06) for name, start in work]
    [first, second], none = calls(events, by_name)
    assert none == []
    assert [step.graph for step in (first, second)] == [(4.5, 4.6), (4.7, 4.8)]
    assert [(step.start, step.end) for step in (first, second)] == [(4.5, 4.6), (4.6, 9.5)]
    assert [o.name for step in (first, second) for o in step.operations] == ["0B0/x", "update/adam/mul"]
