"""Which operations let rows meet other rows, and which keep them apart."""

import pytest
import tensorflow as tf

from kparallel.stage.dependence import Dependence, RowDependence
from kparallel.stage.mixed_rows import mixes

MIX = {
    "a column and a matrix of a column": lambda x: x[:, 0] - x[:, :1],
    "a row's weight and its values": lambda x: x * x[:, 0],
    "a comparison": lambda x: tf.cast(x[:, 0] == x[:, :1], x.dtype),
    "a choice": lambda x: tf.where(x[:, 0] > 0, x, 0.0),
    "every pair of rows": lambda x: tf.matmul(x, x, transpose_b=True),
    "every pair by letters": lambda x: tf.einsum("ad,bd->ab", x, x),
    "each head's pairs": lambda x: tf.matmul(tf.reshape(x, [1, -1, 3]), tf.reshape(x, [1, -1, 3]), transpose_b=True)[0],
    "a softmax over the rows": lambda x: tf.nn.softmax(x[:, 0]),
    "a cumulative sum": tf.cumsum,
    "a sorted column": lambda x: tf.sort(x[:, 0]),
    "the rows the other way round": lambda x: x[::-1] + tf.reverse(x, [0]),
    "the next row": lambda x: tf.roll(x, 1, 0),
    "rows beside a memory": lambda x: tf.concat([x, tf.ones((5, 3))], 0),
    "a row of zeros": lambda x: tf.pad(x, [[1, 0], [0, 0]]),
    "some rows": lambda x: tf.gather(x, tf.cast(x[:, 0], tf.int32)),
}
DO_NOT = {
    "a weight of each row": lambda x: x * x[:, :1],
    "a bias": lambda x: x + tf.constant([1.0, 2.0, 3.0]),
    "a product with weights": lambda x: tf.matmul(x, tf.ones((3, 4))),
    "a product with weights by letters": lambda x: tf.einsum("ad,dk->ak", x, tf.ones((3, 4))),
    "attention in a row": lambda x: tf.matmul(x[:, :, None], x[:, None]) + tf.einsum("ai,aj->aij", x, x),
    "a softmax of each row": tf.nn.softmax,
    "a cumulative sum of each row": lambda x: tf.cumsum(x, -1),
    "the largest two of each row": lambda x: tf.math.top_k(x, 2)[0],
    "rows twice": lambda x: tf.concat([x, 2 * x], 0),
    "a column beside others": lambda x: tf.pad(tf.concat([x, x[:, :1]], 1), [[0, 0], [1, 0]]),
    "some columns": lambda x: tf.gather(x, [0, 2], axis=1),
    "a lookup": lambda x: tf.gather(tf.ones((5, 2)), tf.cast(x[:, 0], tf.int32)),
    "an entry of each row": lambda x: tf.gather(x, tf.cast(x[:, :1], tf.int32), batch_dims=1),
    "turned images": lambda x: tf.transpose(x[:, :, None], [0, 2, 1]),
    "the largest of each row": lambda x: tf.reduce_max(x, 1),
}


def of(function):
    """Return how what a function gives depends on the rows of its argument."""
    found = []

    def trace(x):
        value = function(x)
        found.append(RowDependence([x], []).of(value))

    tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec((None, 3)))
    return found[0]


@pytest.mark.parametrize("name", MIX)
def test_rows_that_meet_are_found(name):
    assert of(MIX[name]) is Dependence.OTHER


@pytest.mark.parametrize("name", DO_NOT)
def test_rows_by_themselves_stay_rows(name):
    assert of(DO_NOT[name]) is Dependence.ROWS


def test_an_operation_that_is_not_known_is_trusted():
    with tf.Graph().as_default():
        assert not mixes(tf.nn.relu(tf.ones((2, 2))).op, [True])
