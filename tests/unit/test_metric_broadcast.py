"""Metrics of targets, outputs and weights that would broadcast in a share alone are refused; others are not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.errors import DataError
from kparallel.metric.broadcast import check_metrics


def container(*metrics, weighted=()):
    """Return Keras's container of metrics, built for class indices or numbers of 3 rows and outputs of 3 values."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile(metrics=list(metrics), weighted_metrics=list(weighted))
    model.compute_metrics(None, tf.zeros((3, 3)), tf.zeros((3, 3)))
    return model._compile_metrics


def check(metrics, true, pred, weight=None, mask=None):
    outputs = tf.zeros(pred)
    if mask is not None:
        outputs._keras_mask = tf.ones(mask, bool)
    check_metrics(metrics, tf.zeros(true), outputs, None if weight is None else tf.ones(weight))


@pytest.mark.parametrize("metric", ["mae", keras.metrics.RootMeanSquaredError(), "cosine_similarity"])
@pytest.mark.parametrize(("true", "pred"), [((3,), (3, 3)), ((2, 3), (2, 2, 3))])
def test_rows_that_meet_another_dim_are_refused(metric, true, pred):
    with pytest.raises(DataError, match=r"with outputs of shape \(rows.* received targets of shape \(rows"):
        check(container(metric), true, pred)


def test_weights_and_masks_that_meet_another_dim_are_refused():
    with pytest.raises(DataError, match=r"metric 'mae' .* sample weights of shape \(rows\)"):
        check(container(weighted=["mae"]), (3, 3, 4), (3, 3, 4), (3,), mask=(3, 3))


@pytest.mark.parametrize(
    ("metric", "true", "pred", "weight"),
    [
        ("mae", (3,), (3, 1), None),
        ("mae", (3, 4), (3, 4, 1), (3,)),
        ("mae", (3, 1), (3, 3), (3,)),
        (keras.metrics.SparseCategoricalAccuracy(), (3,), (3, 3), (3,)),
        (keras.metrics.SparseCategoricalAccuracy(), (3, 2), (3, 2, 3), (3, 2)),
        (keras.metrics.F1Score(), (3, 3), (3, 3), (3,)),
    ],
)
def test_what_keras_takes_is_taken(metric, true, pred, weight):
    check(container(weighted=[metric]), true, pred, weight)


@pytest.mark.parametrize("step", ["fit", "evaluate"])
def test_a_share_of_as_many_rows_as_outputs_is_refused(step):
    """A batch of 6 fails in plain Keras; its shares are of 3."""
    model = kparallel.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]), replicas=2, check="off")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["mae"])
    with pytest.raises(DataError, match=r"'mae' compares with outputs of shape \(rows, 3\) row by row"):
        # Given arrays Keras fails while it builds the metrics; of a dataset it does not know the number of rows then.
        getattr(model, step)(tf.data.Dataset.from_tensor_slices((np.ones((6, 2)), np.ones(6))).batch(6), verbose=0)
