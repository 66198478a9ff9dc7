"""Targets whose rows would broadcast to another dim of the outputs are refused; those that Keras takes are not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.errors import DataError
from kparallel.loss.broadcast import check_targets

LOSSES = keras.losses


def tensors(*shapes):
    return [tf.zeros(shape) for shape in shapes]


@pytest.mark.parametrize("kind", [LOSSES.MeanSquaredError, LOSSES.Huber, LOSSES.Hinge, LOSSES.CosineSimilarity])
@pytest.mark.parametrize(("true", "pred"), [((3,), (3, 3)), ((2, 3), (2, 2, 3)), ((5, 4), (5,))])
def test_rows_that_meet_another_dim_are_refused(kind, true, pred):
    with pytest.raises(DataError, match=r"with outputs of shape \(rows.* received targets of shape \(rows"):
        check_targets(kind(), *tensors(true, pred))


@pytest.mark.parametrize(
    ("loss", "true", "pred"),
    [
        (LOSSES.MeanSquaredError(), (3,), (3, 1)),
        (LOSSES.MeanSquaredError(), (3, 1), (3,)),
        (LOSSES.MeanSquaredError(), (3, 4), (3, 4, 1)),
        (LOSSES.MeanSquaredError(), (3, 1), (3, 3)),
        (LOSSES.SparseCategoricalCrossentropy(), (3,), (3, 3)),
        (LOSSES.SparseCategoricalCrossentropy(), (3, 2), (3, 2, 3)),
        (LOSSES.CTC(), (3, 2), (3, 4, 5)),
    ],
)
def test_what_keras_takes_is_taken(loss, true, pred):
    check_targets(loss, *tensors(true, pred))


def own(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2)


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        ("mse", DataError, r"mse compares with outputs of shape \(rows, 3\) row by row"),
        (own, ValueError, "6 and 3"),  # A loss that lets rows meet gets the whole batch, and fails as in plain Keras.
    ],
)
def test_a_share_of_as_many_rows_as_outputs_does_not_train(loss, error, words):
    """A batch of 6 fails in plain Keras; its shares are of 3."""
    model = kparallel.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]), replicas=2, check="off")
    model.compile("sgd", loss)
    with pytest.raises(error, match=words):
        model.fit(np.ones((8, 2)), np.ones(8), batch_size=6, verbose=0)
