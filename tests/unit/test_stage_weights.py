"""How the weights of a stage come to a replica's device, and in what order."""

import tensorflow as tf

from kparallel.compat.functions import captured
from kparallel.engine.stage_device import StageDevice
from kparallel.engine.stage_weights import StageWeights
from kparallel.mesh import full_device_name
from tests.unit.stages import stages_of, traced

FIRST, SECOND = (StageDevice(full_device_name(name)) for name in ("CPU:0", "CPU:1"))


def test_weights_of_every_replica_are_read_once():
    stages = stages_of()

    def work():
        weights = StageWeights(stages, [FIRST] * 3)
        return weights.of(1), weights.of(1), weights.one(1, 0)

    _, (one, other, kernel) = traced(work)
    assert one is other and kernel is one[0]


def test_weights_of_their_owner_alone_are_brought_each_time_once_something_is_there():
    stages = stages_of(shard="weights")

    def work():
        weights, barrier = StageWeights(stages, [SECOND] * 3), tf.constant(1.0, name="barrier")
        return weights.of(1, [barrier]), weights.of(1)

    _, (late, early) = traced(work)
    for variable, one, other in zip(stages[1].weights, late, early, strict=True):
        (owned,) = variable.value.values
        for tensor, waits in ((one, ["barrier"]), (other, [])):
            assert tensor.device.endswith("/device:CPU:1") and tensor.op.type == "Identity"
            read = tensor.op.inputs[0].op.inputs[0].op  # `read_value` returns a copy of what it read.
            assert read.type == "ReadVariableOp" and captured(read.inputs[0]) is owned.handle
            assert [each.name for each in read.control_inputs] == waits
