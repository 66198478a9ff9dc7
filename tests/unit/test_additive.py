"""Which metrics add up over the parts of a batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.metric.additive import is_additive, noting_sums, refuse_divided, state_change


class Own(keras.metrics.Mean):
    """A class of the user's, which may do anything."""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: keras.metrics.MeanSquaredError(), True),
        (lambda: keras.metrics.AUC(), True),
        (lambda: keras.metrics.CosineSimilarity(axis=-1), True),
        (lambda: keras.metrics.CosineSimilarity(axis=0), False),
        (lambda: keras.metrics.CosineSimilarity(axis=-2), False),
        (lambda: keras.metrics.MeanMetricWrapper(keras.losses.mean_squared_error), True),
        (lambda: keras.metrics.MeanMetricWrapper(keras.metrics.kl_divergence), True),
        (lambda: keras.metrics.MeanMetricWrapper(lambda y, p: keras.ops.mean(p)), False),
        (lambda: keras.metrics.MeanMetricWrapper(keras.losses.MeanSquaredError()), False),
        (lambda: keras.metrics.MeanMetricWrapper(keras.losses.dice), False),
        (lambda: keras.metrics.MeanMetricWrapper(keras.ops.mean), False),
        (lambda: Own(), False),
    ],
)
def test_keras_own_metrics_add_up(make, expected):
    assert is_additive(make()) is expected


def test_a_change_starts_from_the_reset_state():
    metric = keras.metrics.Mean()
    metric.update_state([1.0, 2.0])
    change = state_change(metric, tf.constant([[3.0], [5.0]]))
    assert [float(value) for value in change] == [8.0, 2.0]
    assert float(metric.total) == 3.0


def test_metrics_that_take_rows_are_noted():
    rows, scalar, mixed, own = (kind() for kind in (keras.metrics.Mean, keras.metrics.Mean, keras.metrics.Mean, Own))
    metrics, added = [rows, scalar, mixed, own], set()

    @tf.function(autograph=False)
    def step(x):
        with noting_sums(metrics, added):
            for metric in (rows, mixed, own):
                metric.update_state(x)
            for metric in (scalar, mixed):
                metric.update_state(tf.reduce_mean(x))

    step.get_concrete_function(tf.TensorSpec((None, 2)))
    assert added == {id(variable) for variable in rows.variables}
    assert all("update_state" not in vars(metric) for metric in metrics)


def test_the_refusal_names_the_metric():
    error = refuse_divided(keras.metrics.Mean(name="mine"), "a layer's call", "Do this.")
    assert "'mine'" in str(error) and "a layer's call" in str(error) and str(error).endswith("Do this.")
    np.testing.assert_array_equal(state_change(keras.metrics.Sum(), 2.0)[0], 2.0)
