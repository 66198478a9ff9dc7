"""A report travels as one vector, next to gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.data.share import Share
from kparallel.engine.report import Report


def share(count):
    return Share(None, None, None, count, None)


def report(count=3):
    terms = [tf.constant(2.0, tf.float64), tf.constant(float("nan"), tf.float64)]
    metrics = [tf.constant([1, 2], tf.int64), tf.constant([[0.5]])]
    return Report.of(share(count), terms, metrics, [tf.constant(4.0)])


def test_a_vector_holds_all_shapes_and_dtypes():
    first = report()
    again = first.from_vector(first.vector(tf.float64) * 2)
    assert float(again.rows) == 6 and float(again.replicas) == 2 and float(again.terms[0]) == 4
    assert again.metrics[0].dtype == tf.int64 and again.metrics[0].numpy().tolist() == [2, 4]
    assert again.metrics[1].shape == (1, 1) and float(again.loss_state[0]) == 8


def test_an_empty_share_reports_zeros():
    empty = report(count=0)
    assert float(empty.rows) == float(empty.replicas) == 0
    assert [float(term) for term in empty.terms] == [0, 0]
    assert all(float(tf.reduce_sum(tf.cast(change, tf.float64))) == 0 for change in empty.metrics)


def absolute(y_true, y_pred):
    """A metric of the user's own, which is updated with the whole batch."""
    return tf.abs(y_true - y_pred)[..., 0]


def test_metrics_of_the_whole_batch_see_its_mask():
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(keras.layers.Masking()(inputs)))
    model.compile(loss="mse", metrics=[absolute], weighted_metrics=["mae"])
    x = np.array([[[1, 0], [0, 0], [0, 0]], [[2, 1], [1, 1], [0, 0]], [[0, 3], [1, 4], [2, 2]]], "float32")
    results = []
    for wrap in (lambda model: model, lambda model: kparallel.wrap(model, replicas=2)):
        results.append(wrap(model).evaluate(x, np.zeros((3, 3, 1)), verbose=0, return_dict=True))
    assert results[1] == pytest.approx(results[0], rel=1e-6)
    assert results[0]["absolute"] == pytest.approx(results[0]["mae"])


@pytest.mark.parametrize("metric", [keras.losses.MeanSquaredError, lambda: keras.losses.dice])
def test_a_loss_as_a_metric_counts_once_a_batch(metric):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "sigmoid")])
    model.compile(loss="mse", metrics=[metric()])
    x, y = np.random.default_rng(0).uniform(size=(2, 8, 3)).astype("float32")
    results = []
    for wrap in (lambda model: model, lambda model: kparallel.wrap(model, replicas=2)):
        results.append(wrap(model).evaluate(x[:, :2], y, batch_size=5, verbose=0))
    assert results[1] == pytest.approx(results[0], rel=1e-6)
