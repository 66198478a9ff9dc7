"""What an update of a metric is of a replica's rows: a sum over them, or a mean."""

import keras
import pytest
import tensorflow as tf

from kparallel.ownstep.metric_updates import adds_up
from kparallel.ownstep.rows import StepRows
from kparallel.ownstep.traced import Traced
from kparallel.ownstep.written import Written


def found(metric, arguments, size=None, sums=False):
    """Tell what an update is, whose arguments a function makes of rows."""
    answers = []

    def trace(x):
        graph = tf.compat.v1.get_default_graph()
        args, kwargs = arguments(x)
        rows = StepRows(graph, [x])
        written = Written(graph, rows, {}, set(), set(), 2)
        answers.append(adds_up(metric, args, kwargs, Traced(rows, written, size, sums)))

    tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec((size, 3)))
    return answers[0]


def by_rows(x):
    return (tf.reduce_mean(x),), {"sample_weight": tf.shape(x)[0]}


@pytest.mark.parametrize(
    ("metric", "arguments", "options", "adds"),
    [
        (keras.metrics.MeanAbsoluteError(), lambda x: ((x, x + 1), {}), {}, True),
        (keras.metrics.MeanAbsoluteError(), lambda x: ((x, x + 1), {}), {"size": 4}, True),
        (keras.metrics.Mean(), lambda x: ((tf.reduce_mean(x),), {}), {}, False),
        (keras.metrics.Mean(), by_rows, {}, True),
        (keras.metrics.Mean(), by_rows, {"size": 4}, True),
        (keras.metrics.Mean(), lambda x: ((tf.reduce_mean(x), tf.constant(7)), {}), {"size": 4}, False),
        (keras.metrics.Sum(), lambda x: ((tf.reduce_max(x),), {}), {"sums": True}, True),
        (keras.metrics.Sum(), lambda x: ((tf.constant(1.0),), {}), {"sums": True}, False),
    ],
)
def test_what_an_update_adds(metric, arguments, options, adds):
    assert found(metric, arguments, **options) is adds
