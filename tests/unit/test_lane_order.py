"""The order of the actions of a lane, and when their weights travel."""

import tensorflow as tf

from kparallel.engine.lane_order import LaneOrder
from kparallel.engine.stage_device import StageDevice
from kparallel.engine.stage_weights import StageWeights
from kparallel.mesh import full_device_name
from tests.unit.stages import stages_of, traced

SECOND = StageDevice(full_device_name("CPU:1"))


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
