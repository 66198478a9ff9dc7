"""Where the indices of a lookup's slices come from."""

import pytest
import tensorflow as tf

from kparallel.engine.gather_sources import sources

TABLE = tf.ones((9, 2))


def called(function):
    return tf.function(function, autograph=False)


def found(make):
    """Return (count, varies, distinct, merged) of each gather whose indices a function makes of the data."""
    result = []

    def trace(data):
        result.extend(sources(make(data), {data.name}))

    called(trace).get_concrete_function(tf.TensorSpec((None, 3), tf.int32))
    return [(source.count, source.varies, source.distinct, source.merged) for source in result]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda data: tf.range(4), (4, False, True, True)),
        (lambda data: tf.constant([1, 1, 2]), (3, False, False, False)),
        (lambda data: tf.reshape(data, [-1]), (None, True, False, False)),
        (lambda data: tf.unique(tf.reshape(data, [-1]))[0], (None, True, True, True)),
        (lambda data: tf.cast(tf.range(4), tf.int64), (4, False, True, True)),
        (lambda data: tf.cast(tf.range(4.0) / 2, tf.int32), (4, False, False, True)),
        (lambda data: tf.range(tf.shape(data)[0]), (None, False, True, True)),
        (lambda data: tf.random.uniform([5], 0, 9, tf.int32), (5, True, False, False)),
        (lambda data: tf.where(tf.range(3) < 0, tf.range(3) + 9, tf.range(3)), (3, False, False, True)),
        (lambda data: called(lambda n: tf.range(4))(data), (4, False, True, True)),
        (lambda data: called(lambda n: tf.identity(n))(tf.reshape(data, [-1])), (None, True, False, False)),
        (lambda data: tf.while_loop(lambda i: i[0] < 3, lambda i: (i + data[0, 0],), (tf.range(2),))[0],
         (2, True, False, True)),
        (lambda data: tf.cond(data[0, 0] > 0, lambda: tf.range(2), lambda: tf.range(2) + 1), (2, True, False, True)),
    ],
)  # fmt: skip
def test_the_source_of_one_gather(make, expected):
    assert found(make) == [expected]


def test_lookups_of_one_table_are_told_apart():
    """TensorFlow concatenates the slices of several lookups of one weight."""

    def make(data):
        with tf.GradientTape() as tape:
            tape.watch(TABLE)
            table = tf.identity(TABLE)
            tape.watch(table)
            total = tf.reduce_sum(tf.gather(table, data)) + tf.reduce_sum(tf.gather(table, tf.range(4)))
        return tape.gradient(total, table).indices

    one, other = found(make)
    assert {one, other} == {(None, True, False, False), (4, False, True, True)}
