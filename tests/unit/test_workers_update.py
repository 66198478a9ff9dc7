"""What an optimizer that is sharded over workers refuses; `tests/cluster` has the numbers."""

import keras
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.comm.group import WorkerGroup
from kparallel.engine.optimizer_update import OptimizerUpdate
from kparallel.engine.placement import Placement
from kparallel.engine.workers_update import WorkersUpdate
from kparallel.errors import ModelError, PlanError


class Group(WorkerGroup):
    """Worker 0 of two, which says nothing."""

    def all_gather_text(self, text):
        raise AssertionError

    def broadcast(self, values, owners=None):
        raise AssertionError


def update(optimizer, owners):
    placement = Placement((("CPU:0",),), 0, 2, (SingleReplica(),), Group(2, 0))
    return WorkersUpdate(OptimizerUpdate(optimizer, False), optimizer, owners, placement)


def mine(gradients, variables=None):
    raise AssertionError


@pytest.mark.parametrize("replacement", [mine, [].append], ids=["function", "method of C"])
@pytest.mark.parametrize("holds", [lambda each: each, keras.optimizers.LossScaleOptimizer])
def test_an_optimizer_whose_method_was_replaced_is_refused(holds, replacement):
    """It would compute a norm, say, of the gradients of one worker's weights."""
    optimizer = keras.optimizers.SGD()
    update(holds(optimizer), {})
    optimizer.apply = replacement
    with pytest.raises(ModelError, match="received SGD with another apply, which would see .* Say shard=None"):
        update(holds(optimizer), {})


def test_a_worker_without_a_weight_to_update_is_refused():
    """It would not count the step."""
    weights = [keras.Variable(1.0), keras.Variable(2.0)]
    optimizer = keras.optimizers.SGD()
    optimizer.build(weights)
    made = update(optimizer, {id(weight): index for index, weight in enumerate(weights)})
    with pytest.raises(
        PlanError, match="each of 2 workers .* received 1 weights .* for SGD, of which worker 1 owns none"
    ):
        made.apply([tf.ones(()), None], weights, None)
