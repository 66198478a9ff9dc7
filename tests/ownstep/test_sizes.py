"""Which numbers of rows are written into a step."""

import pytest
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.ownstep.rows import StepRows
from kparallel.ownstep.sizes import written_sizes

SIZES = {
    "the first rows": (lambda x: x[:64], [64]),
    "the last rows": (lambda x: x[-64:, 1:], [64]),
    "all but the first": (lambda x: x[1:], [1]),
    "a largest number": (lambda x: x[: tf.minimum(tf.shape(x)[0], 32)], [32]),
    "places": (lambda x: tf.where(tf.range(tf.shape(x)[0]) < 16, x[:, 0], 0.0), [16]),
    "all rows": (lambda x: x[0:], []),
    "columns": (lambda x: x[:, :1] + x[..., 1:], []),
    "half of the rows": (lambda x: x[: tf.shape(x)[0] // 2], []),
    "integers of the data": (lambda x: tf.cast(x, tf.int32) < 64, []),
    "rows of what is no data": (lambda x: x + tf.ones([128, 2])[:64][0], []),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_that_are_written(name):
    function, expected = SIZES[name]
    graph = traced(function).get_concrete_function(tf.TensorSpec([None, 2])).graph
    rows = StepRows(graph, graph.inputs[:1])
    found = {size for operation in graph.get_operations() for size in written_sizes(operation, rows)}
    assert sorted(found) == expected
