"""The order of the actions of a lane, and when their weights travel."""

import keras
import tensorflow as tf

import kparallel
from kparallel.engine.lane_order import LaneOrder
from kparallel.engine.stage_device import StageDevice
from kparallel.engine.stage_weights import StageWeights
from kparallel.mesh import full_device_name
from tests.pairs import seeded

SECOND = StageDevice(full_device_name("CPU:1"))


def stages_of(**options):
    model = kparallel.wrap(
        seeded(lambda: keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(3))])),
        replicas=2,
        stages=3,
        microbatches=1,
        devices=["CPU:0", "CPU:1"],
        **options,
    )
    return model._kparallel.pipeline(model).stages


def traced(work):
    """Return the graph of a function, and what it returned, as tensors of the graph."""
    found = []
    graph = tf.function(lambda: found.append(work()), autograph=False).get_concrete_function().graph
    return graph, found[0]


def test_an_action_has_weights_that_travel_while_the_one_before_it_runs():
    """Of five actions on a lane, the second and third are of one stage."""
    stages = stages_of(shard="weights")
    devices = [SECOND] * 3

    def work():
        lanes, found = LaneOrder([0] * 3, devices, StageWeights(stages, devices)), []
        for index, s in enumerate([0, 1, 1, 2, 0]):
            found.append(lanes.weights(s)[0])
            with lanes.after_previous(s):
                lanes.finish(s, tf.constant(1.0, name=f"result_{index}"))
        return found

    _, found = traced(work)
    reads = [tensor.op.inputs[0].op.inputs[0].op for tensor in found]
    waits = [{each.inputs[0].op.name for each in read.control_inputs} for read in reads]
    assert found[1] is found[2] and found[0] is not found[4]
    assert waits == [set(), set(), set(), {"result_1"}, {"result_2"}]
