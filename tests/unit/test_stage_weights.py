"""How the weights of a stage come to a replica's device, and in what order."""

import tensorflow as tf

from kparallel.comm.communicator import Communicator
from kparallel.comm.group import SingleWorker
from kparallel.compat.distribute import mirrored
from kparallel.compat.functions import captured
from kparallel.compat.placed_variables import VariableOwner
from kparallel.compat.variables import place_variable
from kparallel.engine.stage_device import StageDevice
from kparallel.engine.stage_weights import StageWeights
from kparallel.mesh import full_device_name
from kparallel.workers.variables import VariablesOfWorkers
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


class Column(Communicator):
    """Notes what replica 0 of two gives to a broadcast, and returns it."""

    def __init__(self):
        self.sent = []

    def all_reduce(self, values):
        raise AssertionError

    all_gather = all_reduce

    def broadcast(self, values, owners):
        self.sent.append((values, list(owners)))
        return values

    @property
    def replica_index(self):
        return 0


def test_weights_that_workers_share_out_come_by_one_broadcast_of_their_stage():
    stages, access = stages_of(), VariablesOfWorkers(SingleWorker(), 1, "weights")
    for owner, weight in enumerate(stages[1].weights):  # The kernel is here, the bias on the other worker.
        place_variable(weight, mirrored(("CPU:0",)), ("CPU:0",), True, VariableOwner(owner, owner == 0, access, True))
    columns = [Column() for _ in stages]

    def work():
        weights, barrier = StageWeights(stages, [SECOND] * 3, None, columns), tf.constant(1.0, name="barrier")
        assert [weights.come_from_workers(s) for s in range(3)] == [False, True, False]
        return weights.of(1, [barrier]), weights.one(1, 1), weights.of(0)

    _, (found, bias, first) = traced(work)
    assert [owners for column in columns for _, owners in column.sent] == [[0, 1], [1]]
    assert len(first) == 2 and not columns[0].sent  # Each replica has a copy of these.
    kernel, zeros = found
    read = kernel.op.inputs[0].op.inputs[0].op
    assert read.type == "ReadVariableOp" and [each.name for each in read.control_inputs] == ["barrier"]
    assert captured(read.inputs[0]) is stages[1].weights[0].value.local_copies[0].handle
    assert zeros.shape == bias.shape == (2,) and all("reduce1" in each.name for each in (kernel, zeros, bias))


def test_weights_that_were_frozen_since_come_as_state():
    stages, access, column = stages_of(), VariablesOfWorkers(SingleWorker(), 1, "weights"), Column()
    kernel = stages[1].weights[0]
    place_variable(kernel, mirrored(("CPU:0",)), ("CPU:0",), True, VariableOwner(1, False, access, True))
    stages[1].state.variables = [kernel]

    def work():
        return StageWeights(stages, [FIRST] * 3, None, [column] * 3).state_of_owners(1)

    _, found = traced(work)
    assert list(found) == [id(kernel)] and column.sent[0][1] == [1]
