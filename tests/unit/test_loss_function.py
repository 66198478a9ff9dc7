"""Loss terms of a model's outputs, in Keras's order."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.data.share import Share
from kparallel.engine.coupling import Coupling
from kparallel.engine.loss_function import loss_function
from kparallel.engine.loss_state import LossState

Y = tf.constant([[0.0], [0.0], [4.0]])
OUTPUTS = tf.constant([[1.0], [3.0], [4.0]])
SHARE = Share(None, Y, None, 3, 3)


class Other(SingleReplica):
    """Replica 0 of two; the other one has one row more, which is 10 in all tensors."""

    def all_gather(self, values):
        return [[value, tf.fill([1, *value.shape[1:]], tf.constant(10, value.dtype))] for value in values]


def ratio(y_true, y_pred):
    return keras.ops.sum(y_pred) / (1 + keras.ops.sum(y_true))


def terms(loss, replicas=1, **options):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", loss, **options)
    model.compute_loss(y=Y, y_pred=OUTPUTS)  # Builds Keras's container.
    communicator = SingleReplica() if replicas == 1 else Other()
    coupling = Coupling(model, "mean", replicas)
    return loss_function(model, communicator, replicas, coupling, True, True, LossState(model, True, 0))(OUTPUTS, SHARE)


def test_a_mean_is_a_sum_and_the_number_of_its_values():
    [(weight, term)] = terms("mse", loss_weights=2.0)
    assert weight == 2.0 and float(term.numerator) == 10.0 and float(term.statistics[0]) == 3.0
    of_gradient, of_report = term.factors([tf.constant(5.0, tf.float64)])  # Of a batch of 5 rows.
    assert float(of_gradient) == float(of_report) == 0.2


def test_a_loss_of_the_whole_batch_reaches_the_own_rows_alone():
    with tf.GradientTape() as tape:
        tape.watch(OUTPUTS)
        [(_, term)] = terms(ratio, replicas=2)
    # (1 + 3 + 4 + 10) / (1 + 0 + 0 + 4 + 10)
    assert float(term.numerator) == pytest.approx(18 / 15)
    np.testing.assert_allclose(tape.gradient(term.numerator, OUTPUTS), np.full((3, 1), 1 / 15), rtol=1e-6)
    of_gradient, of_report = term.factors([tf.constant(2.0, tf.float64)])  # Two replicas that had rows.
    assert (float(of_gradient), float(of_report)) == (1.0, 0.5)
