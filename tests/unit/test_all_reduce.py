"""What a replica gives to the all-reduce after its backward pass."""

from contextlib import nullcontext
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.data.share import Share
from kparallel.engine.all_reduce import all_reduce, all_reduce_state, zeroed
from kparallel.engine.report import Report
from kparallel.engine.sparse_gradients import SlicedGradient

FULL, EMPTY = (Share(None, None, None, count, 5) for count in (2, 0))


def test_the_padding_row_of_an_empty_share_gives_nothing():
    bad = tf.constant([float("nan"), 1.0])
    assert zeroed(bad, FULL) is bad and zeroed(bad, EMPTY).numpy().tolist() == [0.0, 0.0]
    slices = SlicedGradient(rows=(tf.IndexedSlices(bad[:, None], tf.constant([3, 4]), tf.constant([9, 1])),))
    assert zeroed(slices, EMPTY).whole().values.numpy().ravel().tolist() == [0.0, 0.0]


def test_a_prediction_that_changes_no_state_sends_nothing():
    class Silent(SingleReplica):
        def all_reduce(self, values):
            raise AssertionError("No state has changed.")

    stage = SimpleNamespace(state=SimpleNamespace(changes=lambda *_: []))
    replica = SimpleNamespace(pipeline=SimpleNamespace(stages=(stage, stage)), communicators=(Silent(), Silent()))
    result = SimpleNamespace(rules=[SimpleNamespace(rules=())] * 2, start=[[], []], ends=[[], []], counts=(2,))
    report = Report.of(FULL, [], [], [])
    sums = all_reduce_state(replica, FULL, result, report)
    assert sums.states == [[], []] and sums.report is report


@pytest.mark.parametrize("sliced", [False, True])
def test_a_gradient_that_is_summed_on_an_owner_has_its_weights_shape(sliced):
    """By which the owners' parts of a pack are found; the graph of a sparse input or of a lookup may not tell it."""
    variable, shapes = keras.Variable(np.zeros((3, 2))), []

    class Column(SingleReplica):
        def reduce(self, values, owners):
            shapes.extend(tuple(value.shape) for value in values)
            return values

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(None), tf.TensorSpec(None, tf.int64)])
    def reduced(values, size):
        slices = tf.IndexedSlices(tf.ensure_shape(values, [None, 2]), tf.constant([0, 2]), size)
        gradient = SlicedGradient(rows=(slices,)) if sliced else values
        stage = SimpleNamespace(owned=[variable], state=SimpleNamespace(changes=lambda *_: []))
        replica = SimpleNamespace(
            pipeline=SimpleNamespace(stages=(stage,)),
            communicators=(Column(),),
            stage_devices=(SimpleNamespace(reduction=nullcontext),),
            on_last_device=nullcontext,
            is_single=False,
            compression=None,
        )
        result = SimpleNamespace(rules=[SimpleNamespace(rules=())], start=[[]], ends=[[]], counts=(2,))
        report, owners = Report.of(FULL, [], [], []), {id(variable): 0}
        sums = all_reduce(replica, FULL, result, {id(variable): [gradient]}, report, dense=True, owners=owners)
        return sums.gradients[id(variable)]

    values = tf.ones([2 if sliced else 3, 2])
    assert reduced(values, tf.constant([3, 2], tf.int64)).shape == (3, 2) and shapes == [(3, 2)]
