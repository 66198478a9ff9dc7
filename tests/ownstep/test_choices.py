"""Which operations of a step choose by a number of a replica's own rows."""

import pytest
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.ownstep.choices import chooses
from kparallel.ownstep.rows import StepRows

COUNT = tf.constant(1)
CHOOSE = {
    "Maximum": lambda x: tf.maximum(tf.reduce_mean(x), 0.5),
    "Abs": lambda x: tf.abs(tf.reduce_mean(x, 0)),
    "LeakyRelu": lambda x: tf.nn.leaky_relu(tf.reduce_mean(x)),
    "Max": lambda x: tf.reduce_max(tf.reduce_mean(x, 0)),
    "ArgMax": lambda x: tf.gather(tf.reduce_mean(x, 0), tf.argmax(tf.reduce_mean(x, 0))),
    "Cast": lambda x: tf.cast(tf.reduce_mean(x) > 1, x.dtype) * x,
    "SelectV2": lambda x: tf.where(tf.reduce_max(x) > 1, x, 0.0),
    "StatelessIf": lambda x: tf.cond(tf.reduce_mean(x) > 1, lambda: x, lambda: 2 * x),
}
DO_NOT = {
    "rows by themselves": lambda x: tf.where(x > 0, tf.nn.relu(x), tf.abs(x)),
    "a count that is no zero": lambda x: tf.reduce_sum(x) / tf.maximum(tf.reduce_sum(tf.cast(x > 0, x.dtype)), 1.0),
    "what is equal on all": lambda x: tf.where(COUNT < 2, x, 0.0),
    "an assertion": lambda x: [x, tf.debugging.assert_greater(tf.reduce_mean(x), -9.0)][0],
}


def found(function, **options):
    graph = traced(function).get_concrete_function(tf.TensorSpec([None, 2])).graph
    rows = StepRows(graph, graph.inputs[:1])
    return [operation.type for operation in graph.get_operations() if chooses(operation, rows, **options)]


@pytest.mark.parametrize("kind", CHOOSE)
def test_what_chooses(kind):
    assert kind in found(CHOOSE[kind])


@pytest.mark.parametrize("name", DO_NOT)
def test_what_does_not(name):
    assert not found(DO_NOT[name])


def test_a_sum_counts_as_a_mean_does_where_losses_are_sums():
    def largest(x):
        return tf.maximum(tf.reduce_sum(x), 1.0)

    assert found(largest, sums=True) == ["Maximum"] and not found(largest)
