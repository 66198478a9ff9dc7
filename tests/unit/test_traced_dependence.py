"""How a value depends on the rows that it is computed from, read off its graph."""

import pytest
import tensorflow as tf

from kparallel.stage.dependence import Dependence
from kparallel.stage.traced_dependence import dependence, dependences

X = tf.ones([4, 3])
VALUES = {
    "a sum over rows": (lambda x: tf.reduce_sum(x**2), Dependence.SUM),
    "the number of rows": (lambda x: tf.cast(tf.shape(x)[0], tf.float32), Dependence.SUM),
    "a mean over rows": (lambda x: tf.reduce_mean(tf.exp(x)), Dependence.MEAN),
    "the number of rows, as a wider integer": (lambda x: tf.cast(tf.shape(x)[0], tf.int64), Dependence.SUM),
    "a sum, truncated": (lambda x: tf.cast(tf.reduce_sum(x), tf.int64), Dependence.OTHER),
    "a sum divided by the number of rows": (
        lambda x: tf.reduce_sum(x) / tf.cast(tf.shape(x)[0], tf.float32),
        Dependence.MEAN,
    ),
    "a mean, shifted": (lambda x: 3 - 2 * tf.reduce_mean(x), Dependence.MEAN),
    "a sum, shifted": (lambda x: 3 + tf.reduce_sum(x), Dependence.OTHER),
    "a maximum": (tf.reduce_max, Dependence.OTHER),
    "a variance": (lambda x: tf.reduce_mean((x - tf.reduce_mean(x)) ** 2), Dependence.OTHER),
    "a root of a mean": (lambda x: tf.sqrt(tf.reduce_mean(x)), Dependence.OTHER),
    "a random number": (lambda x: tf.random.uniform([]), Dependence.OTHER),
    "a sum over columns": (lambda x: tf.reduce_sum(x, 1), Dependence.ROWS),
    "nothing of the rows": (lambda x: tf.constant(2.0), Dependence.NONE),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_classified(name):
    value, expected = VALUES[name]
    assert dependence(value, [X]) is expected


def test_a_count_adds_up_and_a_moving_average_is_a_mean():
    def updates(weights, state, inputs, masks):
        count, average = state
        new = [count + tf.cast(tf.shape(inputs[0])[0], tf.float32), 0.9 * average + 0.1 * tf.reduce_mean(inputs[0])]
        return [*state], new, []

    state = [tf.zeros([]), tf.zeros([])]
    assert dependences(updates, ([], state, [X], []), [False, False]) == [Dependence.SUM, Dependence.MEAN]


def test_what_needs_its_number_of_rows_is_not_trusted():
    assert dependence(lambda x: tf.reduce_sum(x) / int(x.shape[0]), [X]) is Dependence.OTHER
