"""Recorded steps, read off made-up events: what belongs to whom, and where the time goes."""

import json
from dataclasses import replace

import pytest

from kparallel.mesh import Mesh
from kparallel.planning.plan import LayerGroup, Plan
from kparallel.schedule import Action, clock
from kparallel.trace.attribution import Owner, owner, plain_attribution
from kparallel.trace.breakdown import Breakdown, attribute_time
from kparallel.trace.chrome import chrome
from kparallel.trace.diagnosis import diagnose
from kparallel.trace.events import MARK, Event, Operation, Step, calls
from kparallel.trace.intervals import concurrent, length, union, within, without
from kparallel.trace.lanes import lanes_of, place
from kparallel.trace.summary import Machine, summarize

GROUPS = (LayerGroup(("embed",), 4, 16, (0,), share=0.25), LayerGroup(("block", "head"), 4, 16, (1, 2), share=0.75))
HYBRID = Plan("net", Mesh((("CPU:0", "CPU:1"), ("CPU:2", "CPU:3"))), GROUPS, microbatches=2)
DATA = Plan("net", Mesh((("CPU:0",), ("CPU:1",))), (LayerGroup(("all",), 8, 32),))


def test_spans_are_sets():
    spans = union([(4, 6), (0, 2), (1, 3), (9, 9)])
    assert spans == [(0, 3), (4, 6)] and length(spans) == 5
    assert without(spans, [(1, 2), (5, 8)]) == [(0, 1), (2, 3), (4, 5)]
    assert within(spans, [(1, 2), (5, 8)]) == [(1, 2), (5, 6)]
    assert without(spans, []) == spans and within(spans, []) == []
    assert concurrent([(0, 4), (1, 2), (2, 3), (6, 7)], 2) == [(1, 3)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0F0/PartitionedCall/dense/MatMul", Owner("action", 0, 0, Action(0, "F", 0), True)),
        ("replica_1/12B3/PartitionedCall/gradients/x_grad/MatMul", Owner("action", 1, 12, Action(12, "B", 3), True)),
        ("0F0/dense/StatefulPartitionedCall/MatMul", Owner("action", 0, 0, Action(0, "F", 0))),  # A layer's own call.
        ("1B0/StatefulPartitionedCall_1", Owner("action", 0, 1, Action(1, "B", 0), True)),  # An XLA program.
        ("gradient_tape/replica_1/1F0/mul/Mul", Owner("action", 1, 1, Action(1, "B", 0))),
        ("gradient_tape/0B1/mul/Mul", Owner("action", 0, 0, Action(0, "B", 1))),  # A forward pass run again.
        ("ArithmeticOptimizer/AddOpsRewrite_replica_1/0F1/add", Owner("action", 1, 0, Action(0, "F", 1))),
        (
            "replica_1/0F0/PartitionedCall/reduce1/Sum",
            Owner("action", 1, 0, Action(0, "F", 0), True),
        ),  # A layer's name.
        ("count/1F0/loss/Sum", Owner("other", 0)),
        ("replica_1/count/1F0/loss/Sum", Owner("other", 1)),
        ("reduce1/AddN_3", Owner("reduction", None, 1)),
        ("1F0/reduce1/AddN", Owner("reduction", None, 1)),
        ("replica_1/reduce0_1/Identity", Owner("reduction", 1, 0)),
        ("replica_1/update/adam/update_1_5/Sub_3/ReadVariableOp", Owner("update", 1)),
        ("sharded_update/adam/update_1_5/Sub_3/ReadVariableOp", Owner("update")),
        ("report/mul", Owner("other", 0)),
    ],
)
def test_a_name_tells_whose_work_it_is(name, expected):
    assert owner(name) == expected


def test_names_of_a_plain_model_tell_less():
    assert plain_attribution("adam/update_0/mul", "Mul", "adam").kind == "update"
    assert plain_attribution("gradient_tape/net/dense/MatMul", "MatMul", "adam").action == Action(0, "B", 0)
    assert plain_attribution("replica_1/net/dense/MatMul", "MatMul", "adam") == Owner("action", 1, 0, Action(0, "F", 0))
    assert plain_attribution("CollectiveReduceV2", "CollectiveReduceV2", "adam").kind == "reduction"


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


def by_name(operation):
    return owner(operation.name)


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


def step_of(plan, costs=(1.0, 3.0), sums=0.0, update=1.0, late=0.0, bit=0.0):
    """Make the step that a clock predicts, from moment 10 on: host 1, input 1, actions, a sum, the update, host 1."""
    times = clock(plan.programs(), costs, [2 * cost for cost in costs])
    operations = []
    for replica in range(plan.mesh.replicas):
        scope = f"replica_{replica}/" if replica else ""
        for action, start in times.start.items():
            delay = 12 + late * replica
            bits = (delay + start - 2 * bit, delay + start - bit)  # What an action does before its work proper.
            operations.append(Operation(f"{scope}{action}/Identity", "Identity", *bits))
            operations.append(
                Operation(f"{scope}{action}/MatMul", "MatMul", delay + start, delay + times.finish[action])
            )
        for stage in range(plan.mesh.stages):
            ends = [finish for action, finish in times.finish.items() if action.stage == stage]
            summed = 12 + late * (plan.mesh.replicas - 1) + max(ends)
            if sums:
                operations.append(Operation(f"reduce{stage}/AddN", "AddN", summed, summed + sums))
        end = 12 + late * (plan.mesh.replicas - 1) + times.makespan + sums
        operations.append(Operation(f"{scope}update/adam/mul", "Mul", end, end + update))
    return Step(10.0, end + update + 1, (12.0, end + update), ((11.0, 12.0),), tuple(operations)), times


def laid_out(plan, step, worker=0):
    return place(step, lanes_of(plan, worker), lambda operation: owner(operation.name), plan.replicas == 1)


def test_slices_stand_on_their_lanes():
    step, times = step_of(HYBRID, sums=0.5)
    lanes = laid_out(HYBRID, step)
    assert [(lane.lane.replica, lane.lane.device, lane.lane.stages) for lane in lanes] == [
        (0, "CPU:0", (0,)),
        (0, "CPU:1", (1,)),
        (1, "CPU:2", (0,)),
        (1, "CPU:3", (1,)),
    ]
    for lane in lanes:
        program = HYBRID.programs()[lane.lane.index]
        assert sorted(lane.slices, key=lane.slices.__getitem__) == list(program)
        for action, (start, end) in lane.slices.items():
            assert start - 12 == pytest.approx(times.start[action]) and end - 12 == pytest.approx(times.finish[action])
        assert len(lane.reduction) == 1 and length(lane.update) == pytest.approx(1.0)
    assert [lane.replica for lane in lanes_of(HYBRID, worker=1)] == [2, 2, 3, 3]


def test_a_slice_leaves_out_the_bits_that_run_elsewhere():
    operations = [Operation("0F0/big", "MatMul", 1.0, 3.0), Operation("0F0/bit", "Neg", 7.0, 7.05)]
    operations += [Operation("0B0/big", "MatMul", 3.0, 6.0), Operation("gradient_tape/0F0/bit", "Neg", 0.5, 0.51)]
    [lane, _] = laid_out(DATA, Step(0, 8, (0, 8), (), tuple(operations)))
    assert lane.slices == {Action(0, "F", 0): (1.0, 3.0), Action(0, "B", 0): (3.0, 6.0)}
    assert length(lane.work) == pytest.approx(5.06)


def test_calls_of_stages_tell_the_order_where_bits_take_as_long():
    """A lane runs 1F0, 1B0, 1F1, 1B1; labels are cast as the step starts, and the losses' bits run anywhere."""
    calls = {"1F0": (2.0, 3.0), "1B0": (4.0, 5.0), "1F1": (6.0, 7.0), "1B1": (8.0, 9.0)}
    work = [(f"{action}/PartitionedCall/dense/MatMul", *span) for action, span in calls.items()]
    work += [("1F1/Cast", 0.0, 1.5), ("gradient_tape/1F0/Less", 3.0, 3.1), ("1F0/Log", 3.1, 3.9)]
    work += [("1F0/Sum", 4.5, 5.5), ("gradient_tape/1F1/Less", 7.1, 7.9)]
    operations = tuple(Operation(name, "Mul", start, end) for name, start, end in work)
    lane = laid_out(HYBRID, Step(0, 10, (0, 10), (), operations))[1]
    assert [(str(action), span) for action, span in lane.slices.items()] == [
        ("1F0", (2.0, 3.0)),  # Its loss lasts on into 1B0's slice.
        ("1B0", (3.0, 5.0)),
        ("1F1", (6.0, 7.0)),
        ("1B1", (7.1, 9.0)),
    ]


def test_every_moment_has_one_cause():
    step, times = step_of(HYBRID, sums=0.5)
    lanes = laid_out(HYBRID, step)
    for lane in lanes:
        found = attribute_time(step, lane, lanes, stages=2, cores=None)
        assert sum(found.values()) == pytest.approx(step.end - step.start)
        assert found["work"] == pytest.approx(2 * 3 * (1.0, 3.0)[lane.lane.index])
        assert found["input"] == pytest.approx(1.0) and found["update"] == pytest.approx(1.0)
        assert found["reduction"] == pytest.approx(0.5)
        # A stage waits while the other one works: as the pipeline fills, within, and until it is empty.
        assert found["stage"] == pytest.approx(times.makespan - found["work"] - 0.5 * lane.lane.index)
        assert found["overhead"] == pytest.approx(2.0 + 0.5 * lane.lane.index)


def test_bits_of_work_before_a_slice_hide_no_wait():
    step, times = step_of(HYBRID, bit=0.01)
    lanes = laid_out(HYBRID, step)
    for lane in lanes:
        assert min(lane.slices.values())[0] == pytest.approx(12 + min(times.start[a] for a in lane.slices))
        found = attribute_time(step, lane, lanes, stages=2, cores=None)
        work = 2 * 3 * (1.0, 3.0)[lane.lane.index]
        assert found["stage"] == pytest.approx(times.makespan - work, abs=0.1)
        assert found.get("transfer", 0) <= 0.1


def test_the_faster_replica_waits_for_the_slower_ones_gradients():
    step, times = step_of(DATA, costs=(2.0,), sums=0.5, late=3.0)
    early, late = lanes = laid_out(DATA, step)
    assert attribute_time(step, early, lanes, 1, None)["reduction"] == pytest.approx(3.5)
    assert attribute_time(step, late, lanes, 1, None)["reduction"] == pytest.approx(0.5)
    assert attribute_time(step, late, lanes, 1, None)["overhead"] == pytest.approx(5.0)


def test_a_lane_without_a_core_is_told_from_overhead():
    operations = [Operation("0F0/a", "MatMul", 0, 4), Operation("replica_1/0F0/a", "MatMul", 4, 8)]
    step = Step(0, 8, (0, 8), (), tuple(operations))
    lanes = laid_out(DATA, step)
    found = [attribute_time(step, lane, lanes, 1, cores) for lane in lanes for cores in (1, None)]
    assert [f.get("sharing", 0) for f in found] == [4, 0, 4, 0]
    assert [f.get("overhead", 0) for f in found] == [0, 4, 0, 4]


def summary_of(plan, *made, machine=None):
    made = [step for step, _ in made]
    return summarize(plan, made, [laid_out(plan, step) for step in made], machine or Machine())


def test_the_summary_measures_what_the_clock_simulates():
    made = step_of(HYBRID, sums=0.5)
    summary = summary_of(HYBRID, made, made)
    assert summary.step_times == (made[0].end - made[0].start,) * 2
    assert summary.forward == pytest.approx((1.0, 3.0)) and summary.backward == pytest.approx((2.0, 6.0))
    assert summary.bubble == pytest.approx(made[1].bubble) == pytest.approx(summary.bubble_of_stages)
    # The plan expects the stages' shares of the cost, which are as measured, but for the cost of starting actions.
    assert summary.bubble_planned == pytest.approx(made[1].bubble, abs=0.03)
    assert summary.planned.makespan == pytest.approx(made[1].makespan, rel=0.05)
    assert summary.slowest == 1 and summary.imbalance == pytest.approx(1.5)
    assert summary.stage_times == pytest.approx((6.0, 18.0))
    text = str(summary)
    assert "slowest stage  1 (block, head), 1.5 times the mean" in text
    assert f"bubble         {made[1].bubble:.0%} measured" in text
    assert "2 replicas x 2 stages, 2 microbatches, schedule 1f1b; 2 steps recorded" in text


def test_chrome_json_has_each_action_once_on_its_device():
    made = step_of(HYBRID, sums=0.5)
    trace = json.loads(json.dumps(chrome([made[0]] * 2, [laid_out(HYBRID, made[0])] * 2)))
    events = trace["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes[0] == "host" and processes[4] == "CPU:3: replica 1, stage 1"
    for process, lane in enumerate(lanes_of(HYBRID), start=1):
        for step in (0, 1):
            mine = [e for e in events if e["pid"] == process and e["ph"] == "X" and e["args"]["step"] == step]
            actions = [e for e in mine if e["tid"] == 0]
            assert [e["name"] for e in actions] == [str(action) for action in HYBRID.programs()[lane.index]]
            assert {e["cat"] for e in actions} == {"forward", "backward"} and all(e["dur"] > 0 for e in actions)
            assert {e["name"] for e in mine if e["tid"]} == {"reduction", "update"}
    assert [e["dur"] for e in events if e["name"] == "next batch"] == [1e6, 1e6]


def verdict_of(machine=None, plan=HYBRID, **shares):
    summary = summary_of(plan, step_of(plan, costs=(2.0, 2.0)[: plan.mesh.stages]), machine=machine)
    return diagnose(replace(summary, shares=Breakdown(**shares)))


@pytest.mark.parametrize(
    ("shares", "name", "says"),
    [
        ({"work": 0.5, "input": 0.5}, "input-bound", "50% of a step's"),
        ({"work": 0.6, "reduction": 0.3, "overhead": 0.1}, "communication-bound", "30% of a step's"),
        ({"work": 0.6, "stage": 0.25, "overhead": 0.15}, "pipeline bubble", "25% of a step's"),
        ({"work": 0.2, "overhead": 0.6, "reduction": 0.2}, "too small", "60% of a step's"),
        ({"work": 0.6, "sharing": 0.3, "overhead": 0.1}, "shared cores", "without a core for 30%"),
        ({"work": 0.8, "update": 0.05, "overhead": 0.1, "stage": 0.05}, "scales well", "compute for 85%"),
    ],
)
def test_the_largest_cause_above_its_threshold_is_named(shares, name, says):
    found = verdict_of(Machine(cores=8), **shares)
    assert found.name == name and says in found.text and str(found).startswith(f"{name}: ")


def test_a_slow_stage_is_named_where_the_others_wait_for_it():
    summary = replace(summary_of(HYBRID, step_of(HYBRID)), shares=Breakdown(work=0.5, stage=0.5))
    found = diagnose(summary)
    assert found.name == "unbalanced stages"
    assert found.text.startswith("stage 1 (block, head) takes 1.5 times the mean stage's time, others wait 50%")


def test_virtual_devices_beyond_the_cores_are_named():
    assert verdict_of(Machine(cores=2, threads=2), DATA, work=1.0).name == "shared cores"
    assert verdict_of(Machine(cores=2, threads=1), DATA, work=1.0).name == "scales well"
    assert verdict_of(Machine(cores=None, threads=1), DATA, work=1.0).name == "scales well"


def test_waits_that_the_stages_do_not_explain_come_from_sharing_cores():
    summary = replace(
        summary_of(HYBRID, step_of(HYBRID)), bubble=0.6, shares=Breakdown(work=0.4, stage=0.25, sharing=0.15)
    )
    assert diagnose(replace(summary, cores=2)).name == "shared cores"
    assert diagnose(replace(summary, cores=4)).name == diagnose(summary).name == "unbalanced stages"


def test_a_known_efficiency_is_explained_by_the_largest_cause():
    summary = replace(
        summary_of(DATA, step_of(DATA, costs=(2.0,))), shares=Breakdown(work=0.8, reduction=0.15, input=0.05)
    )
    assert [diagnose(summary, known).name for known in (None, 0.9, 0.5)] == [
        "scales well",
        "scales well",
        "communication-bound",
    ]
