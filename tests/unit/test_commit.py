"""What layers change in their calls is written after the batch, or refused before anything is."""

from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.comm.group import SingleWorker
from kparallel.compat.distribute import mirrored
from kparallel.compat.placed_variables import VariableOwner
from kparallel.compat.variables import copies_of, place_variable
from kparallel.data.share import Share
from kparallel.engine.commit import commit
from kparallel.errors import ModelError, PlanError
from kparallel.workers.variables import VariablesOfWorkers

SHARE = Share(None, None, None, 2, 2)


def stage(weight, committed):
    """Return a stage with one weight, whose state takes note of being committed."""
    state = SimpleNamespace(
        variables=[],
        commit=lambda *arguments: committed.append(weight),
        changed=lambda ends: [],
        left_by_rows=lambda ends, count: [],
    )
    return SimpleNamespace(weights=[weight], state=state, metrics=[])


def run(weights, assigned, divided, parts=2):
    """Commit what two stages with a weight each have assigned; return whose state was committed."""
    committed = []
    stages = [stage(weight, committed) for weight in weights]
    replica = SimpleNamespace(
        pipeline=SimpleNamespace(stages=stages),
        devices=("CPU:0", "CPU:1"),
        communicators=(SingleReplica(),) * 2,
        parts=parts,
        index=0,
    )
    rules = [SimpleNamespace(rules=(), divided=(each,)) for each in divided]
    result = SimpleNamespace(rules=rules, assigned=[[value] for value in assigned], start=[[], []], ends=[[[]], [[]]])
    report = SimpleNamespace(rows=tf.constant(2.0), replicas=tf.constant(1.0), loss_state=[])
    commit(replica, SHARE, result, SimpleNamespace(report=report, states=[[], []]))
    return committed


def weight(path):
    variable = tf.Variable(1.0)
    return SimpleNamespace(path=path, assign=variable.assign, value=variable, _value=variable)


def test_assigned_weights_are_written_and_every_stage_commits_its_state():
    one, other = weight("one"), weight("other")
    assert run([one, other], [tf.constant(5.0), None], [False, False]) == [one, other]
    assert (float(one.value), float(other.value)) == (5.0, 1.0)


def test_a_weight_that_workers_share_out_is_written_by_its_owner():
    access = VariablesOfWorkers(SingleWorker(), 1, "weights")
    weights = [keras.Variable(1.0, dtype="float32") for _ in range(2)]
    for owner, each in enumerate(weights):  # The second one's owner is another worker's replica.
        place_variable(each, mirrored(("CPU:0",)), ("CPU:0",), True, VariableOwner(owner, owner == 0, access, True))
    copies = [copies_of(each)[0] for each in weights]
    tf.function(lambda: run(weights, [tf.constant(5.0)] * 2, [False, False]) and None, autograph=False)()
    assert [float(copy) for copy in copies] == [5.0, 1.0]


def test_a_weight_whose_value_differs_between_parts_is_refused_before_the_first_write():
    one, other = weight("one"), weight("other")
    with pytest.raises(ModelError, match="Weight 'other' is trainable, and is assigned"):
        run([one, other], [tf.constant(5.0)] * 2, [False, True])
    assert float(one.value) == 1.0
    run([one, other], [tf.constant(5.0)] * 2, [False, True], parts=1)
    assert float(other.value) == 5.0


def test_a_weight_that_two_stages_read_is_not_assigned_in_one_of_them():
    shared = weight("shared")
    with pytest.raises(PlanError, match="received 'shared' in stages 0 and 1"):
        run([shared, shared], [tf.constant(5.0), None], [False, False])
    assert float(shared.value) == 1.0
