"""Zeros in the place of weights that other workers hold: what a pass may compute from them, and what not."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.comm.group import SingleWorker
from kparallel.compat.distribute import mirrored
from kparallel.compat.placed_variables import VariableOwner
from kparallel.compat.variables import place_variable
from kparallel.engine.replica import Replica
from kparallel.engine.stand_ins import StandIns, weights_come_from_workers
from kparallel.mesh import full_device_name
from kparallel.workers.variables import VariablesOfWorkers
from tests.unit.stages import stages_of, traced


def shared_out(stages):
    """Return a replica of stages, of which the second's kernel is another worker's."""
    access = VariablesOfWorkers(SingleWorker(), 1, "weights")
    place_variable(stages[1].weights[0], mirrored(("CPU:0",)), ("CPU:0",), True, VariableOwner(1, False, access, True))
    return replica_of(stages)


def replica_of(stages):
    devices = (full_device_name("CPU:0"),) * len(stages)
    return Replica(0, SimpleNamespace(stages=stages), devices, (SingleReplica(),) * len(stages), 2, 4, None)


def test_only_what_workers_share_out_has_stand_ins():
    stages = stages_of()
    assert not weights_come_from_workers(replica_of(stages))
    replica = shared_out(stages)
    assert weights_come_from_workers(replica)

    def work():
        weights, state = StandIns(replica).replica.values
        assert not any(state)
        return weights

    _, weights = traced(work)
    kinds = [[weight.op.type == "PlaceholderWithDefault" for weight in of_stage] for of_stage in weights]
    assert kinds == [[False, False], [True, False], [False, False]]
    assert weights[1][0].shape == (2, 2) and tf.get_static_value(weights[1][0]) is None


def test_weights_that_were_frozen_since_have_stand_ins_as_state():
    stages = stages_of()
    replica = shared_out(stages)
    stages[1].state.variables, stages[1].state.known = [stages[1].weights[0]], [None]
    _, state = traced(lambda: StandIns(replica).replica.values[1])
    (value,) = state[1]
    assert value.op.inputs[0].op.type == "PlaceholderWithDefault"


def effect(kernel):
    tf.debugging.assert_all_finite(1 / kernel, "")
    return tf.zeros(())


@pytest.mark.parametrize(
    ("compute", "is_needed"),
    [
        (lambda kernel: tf.zeros(()), False),
        (lambda kernel: tf.zeros(kernel.shape), False),  # Known while it is traced.
        (tf.reduce_sum, True),
        (effect, True),  # Nothing reads it, and it runs.
    ],
)
def test_what_is_computed_from_them_is_found(compute, is_needed):
    stages = stages_of()
    replica = shared_out(stages)

    def work():
        stand_ins = StandIns(replica)
        return stand_ins.are_needed([compute(stand_ins.replica.values[0][1][0])])

    assert traced(work)[1] is is_needed
