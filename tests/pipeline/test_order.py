"""The graph itself enforces a schedule: each action is reachable from the one before it on its lane."""

import keras
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.data.share import Share
from kparallel.engine.executor import Executor
from kparallel.engine.loss_stage import Counted, Factors, LossStage
from kparallel.engine.loss_state import LossState
from kparallel.engine.replica import Replica
from kparallel.engine.split_function import SplitFunction
from kparallel.engine.stage_function import stage_function
from kparallel.loss.term import row_mean
from kparallel.schedule import gpipe, linear_order, one_f_one_b, splits_backward, zb_h1
from kparallel.stage.graph import open_graph
from kparallel.stage.pipeline import cut_into_stages
from kparallel.stage.state import RowRange

MICROBATCHES = 3


def traced(programs, called=False):
    """Trace one replica's work and return its graph; forward call m of stage s stands in the scope `s{s}m{m}`."""
    layers = [keras.layers.Dense(2, name=f"layer{index}") for index in range(3)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    pipeline = cut_into_stages(model, open_graph(model), [(0,), (1,), (2,)])

    def named(s, stage):
        calls = iter(range(MICROBATCHES))

        def call(weights, state, inputs):
            with tf.name_scope(f"s{s}m{next(calls)}"):
                return stage.forward(weights, state, inputs, True)

        return call

    def work(x):
        rows = [Share(part, part, None, 2, None) for part in tf.split(x, MICROBATCHES)]

        def loss_function(outputs, rows):
            return [(None, row_mean(tf.reduce_mean(outputs), rows.count))]

        def factors(pairs, statistics):
            return Factors([1.0], [1.0])

        one = tf.constant([1.0], tf.float64)
        loss_stage = LossStage(
            pipeline, "CPU:0", loss_function, rows, factors, True, None, Counted([], [one]), LossState(model, True, 0)
        )
        if called:
            calls = [stage_function(stage, True, jit=False, inline=False) for stage in pipeline.stages]
        else:
            calls = [named(s, stage) for s, stage in enumerate(pipeline.stages)]
        row_ranges = [RowRange(2 * m, 2, 2 * MICROBATCHES) for m in range(MICROBATCHES)]
        devices = ("CPU:0", "CPU:1", "CPU:2")
        replica = Replica(0, pipeline, devices, (SingleReplica(),) * 3, 1, MICROBATCHES, None)
        splits = [SplitFunction(stage, [s > 0], jit=False) for s, stage in enumerate(pipeline.stages)]
        options = [splits] if splits_backward(programs) else []
        executor = Executor(replica, calls, [0, 1, 2], row_ranges, loss_stage, lambda s, m: True, *options)
        return executor.run(linear_order(programs), [part.x for part in rows]).gradients

    return tf.function(work, autograph=False).get_concrete_function(tf.TensorSpec([6, 2])).graph


def ancestors(operations):
    found, waiting = set(), list(operations)
    while waiting:
        operation = waiting.pop()
        for before in [tensor.op for tensor in operation.inputs] + list(operation.control_inputs):
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found


def operations_of(graph, action):
    scope = f"s{action.stage}m{action.microbatch}/"
    backward = action.kind == "B"
    return {
        operation
        for operation in graph.get_operations()
        if scope in operation.name
        and operation.name.startswith("gradient_tape") == backward
        and "MatMul" in operation.type
    }


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b])
def test_each_action_is_reachable_from_the_one_before_it(schedule):
    programs = schedule(3, MICROBATCHES)
    graph = traced(programs)
    for program in programs:
        for before, after in zip(program, program[1:], strict=False):
            reached = ancestors(operations_of(graph, after))
            assert operations_of(graph, after) and reached & operations_of(graph, before), f"{after} not after {before}"


def test_the_schedules_make_different_graphs():
    action = one_f_one_b(3, MICROBATCHES)[1]
    assert [str(a) for a in action] == ["1F0", "1F1", "1B0", "1F2", "1B1", "1B2"]
    later, earlier = action[3], action[2]
    graph = traced(one_f_one_b(3, MICROBATCHES))
    assert ancestors(operations_of(graph, later)) & operations_of(graph, earlier)
    graph = traced(gpipe(3, MICROBATCHES))
    assert not ancestors(operations_of(graph, later)) & operations_of(graph, earlier)


def test_no_action_waits_for_a_call_that_is_inlined():
    """TensorFlow inlines a call, and drops what waits for the call itself rather than for its results."""
    graph = traced(one_f_one_b(3, MICROBATCHES), called=True)
    calls = {operation for operation in graph.get_operations() if "PartitionedCall" in operation.type}
    assert len(calls) == 2 * 3 * MICROBATCHES
    assert not [operation for operation in graph.get_operations() if calls & set(operation.control_inputs)]
    for program in one_f_one_b(3, MICROBATCHES):
        for before, after in zip(program, program[1:], strict=False):
            own = {call for call in calls if call.name.startswith(f"{after}/")}
            assert own and any(call.name.startswith(f"{before}/") for call in ancestors(own)), (
                f"{after} not after {before}"
            )


def test_the_parts_of_a_split_backward_pass_keep_the_order_too():
    programs = zb_h1(3, MICROBATCHES)
    graph = traced(programs, called=True)
    calls = {operation for operation in graph.get_operations() if "PartitionedCall" in operation.type}
    of_action = {str(a): {c for c in calls if c.name.startswith(f"{a}/")} for program in programs for a in program}
    # No earlier stage waits for the first one's gradients of inputs: `W` computes all that it has.
    assert {action for action, own in of_action.items() if not own} == {f"0B{m}" for m in range(MICROBATCHES)}
    assert all(len(own) == 1 for action, own in of_action.items() if not action.startswith("0B"))
    for program in programs:
        order = [str(action) for action in program if of_action[str(action)]]
        for before, after in zip(order, order[1:], strict=False):
            assert ancestors(of_action[after]) & of_action[before], f"{after} not after {before}"
    # Nobody waits for a `W` but its own lane.
    assert not {a.name for a in ancestors(of_action["0W2"]) if a.name.startswith("2W")}
