"""How the new value of a variable depends on the rows: rules that one graph shows, tensor by tensor."""

import pytest
import tensorflow as tf

from kparallel.stage.dependence import Dependence, RowDependence

UPDATES = {
    "a sum is added": (lambda x, old: old + tf.reduce_sum(x), Dependence.SUM),
    "a sum is added in front": (lambda x, old: tf.identity(tf.reduce_sum(x) + tf.identity(old)), Dependence.SUM),
    "a sum takes the place": (lambda x, old: tf.reduce_sum(x), Dependence.OTHER),
    "a sum is added twice": (lambda x, old: old + tf.reduce_sum(x) + tf.reduce_sum(x**2), Dependence.OTHER),
    "a sum is added to a part": (lambda x, old: 0.9 * old + tf.reduce_sum(x), Dependence.OTHER),
    "a mean takes the place": (lambda x, old: tf.reduce_mean(x), Dependence.MEAN),
    "a moving average": (lambda x, old: 0.9 * old + 0.1 * tf.reduce_mean(x), Dependence.MEAN),
    "a count of batches": (lambda x, old: old + 1.0, Dependence.NONE),
    "a maximum": (lambda x, old: tf.maximum(old, tf.reduce_max(x)), Dependence.OTHER),
}


def traced(function):
    """Return what a function of rows and of an old value makes in a graph, with its two inputs."""
    found = []

    def trace(x, old):
        found.extend([function(x, old), x, old])

    specs = tf.TensorSpec((None, 3)), tf.TensorSpec(())
    graph = tf.function(trace, autograph=False).get_concrete_function(*specs).graph
    return graph, *found


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_is_classified(name):
    function, expected = UPDATES[name]
    graph, new, x, old = traced(function)
    with graph.as_default():
        assert RowDependence([x], []).of_update(new, old) is expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, old: tf.zeros_like(x), Dependence.ROWS),
        (lambda x, old: tf.reshape(x, [-1]), Dependence.ROWS),
        (lambda x, old: tf.math.divide_no_nan(tf.reduce_sum(x), tf.cast(tf.shape(x)[0], x.dtype)), Dependence.MEAN),
        (lambda x, old: tf.reduce_mean(x) * old, Dependence.MEAN),
        (lambda x, old: tf.reduce_mean(x) * tf.reduce_mean(x), Dependence.OTHER),
        (lambda x, old: tf.cast(tf.reduce_mean(x), tf.int32), Dependence.OTHER),
        (lambda x, old: tf.boolean_mask(x, x[:, 0] > 0), Dependence.OTHER),
        (lambda x, old: x[0:, 1:], Dependence.ROWS),
        (lambda x, old: x[1:], Dependence.OTHER),
        (lambda x, old: x[:64], Dependence.OTHER),
        (lambda x, old: tf.cumsum(x), Dependence.OTHER),
        (lambda x, old: old, Dependence.NONE),
    ],
)
def test_a_tensor_is_classified(function, expected):
    graph, value, x, _ = traced(function)
    with graph.as_default():
        assert RowDependence([x], []).of(value) is expected


def test_what_differs_for_another_reason_determines_nothing():
    graph, value, x, old = traced(lambda x, old: tf.reduce_mean(x) + old)
    with graph.as_default():
        assert RowDependence([x], [old]).of(value) is Dependence.OTHER
