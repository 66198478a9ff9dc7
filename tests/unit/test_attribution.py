"""What a name in a profile tells of the work."""

import pytest

from kparallel.schedule import Action
from kparallel.trace.attribution import Owner, owner, plain_attribution


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0F0/PartitionedCall/dense/MatMul", Owner("action", 0, 0, Action(0, "F", 0), True)),
        ("replica_1/12B3/PartitionedCall/gradients/x_grad/MatMul", Owner("action", 1, 12, Action(12, "B", 3), True)),
        ("0F0/dense/StatefulPartitionedCall/MatMul", Owner("action", 0, 0, Action(0, "F", 0))),  # A layer's own call.
        ("1B0/StatefulPartitionedCall_1", Owner("action", 0, 1, Action(1, "B", 0), True)),  # An XLA program.
        ("gradient_tape/replica_1/1F0/mul/Mul", Owner("action", 1, 1, Action(1, "B", 0))),
        ("gradient_tape/0B1/mul/Mul", Owner("action", 0, 0, Action(0, "B", 1))),  # A forward pass run again.
        ("replica_1/PartitionedCall/gradient_tape/0F0/mul/Mul", Owner("action", 1, 0, Action(0, "B", 0))),
        (
            "PartitionedCall/0F0/dense/gradient_tape/mul/Mul",
            Owner("action", 0, 0, Action(0, "F", 0)),
        ),
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
        ("replica_1/update/StatefulPartitionedCall", Owner("update", 1)),
        ("update_function/adam/Sub_3/ReadVariableOp", Owner("inside")),
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
