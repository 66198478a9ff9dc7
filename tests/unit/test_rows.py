"""How the tensors of a step of the user's own depend on a replica's rows, also inside functions that it calls."""

import pytest
import tensorflow as tf

from kparallel.ownstep.rows import StepRows
from kparallel.stage.dependence import Dependence

NONE, SUM, MEAN, ROWS, OTHER = (
    Dependence.NONE,
    Dependence.SUM,
    Dependence.MEAN,
    Dependence.ROWS,
    Dependence.OTHER,
)


def of(function, equal=()):
    """Return how what a function makes of rows depends on them; what `equal` picks is equal on all replicas."""
    found = []

    def trace(x):
        found.extend([x, function(x)])

    graph = tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec((None, 3))).graph
    rows, value = found
    with graph.as_default():
        dependence = StepRows(graph, [rows])
        for name in equal:
            dependence.set(graph.get_tensor_by_name(name), NONE)
        return dependence.of(value)


def called(function):
    return tf.function(function, autograph=False)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: tf.reduce_mean(x) * tf.cast(tf.shape(x)[0], x.dtype), SUM),
        (lambda x: tf.cast(tf.shape(x)[0], x.dtype) * tf.reduce_mean(x), SUM),
        (lambda x: tf.reduce_sum(x) * tf.cast(tf.shape(x)[0], x.dtype), OTHER),
        (lambda x: tf.random.stateless_normal([tf.shape(x)[0], 2], seed=[1, 2]), ROWS),
        (lambda x: tf.random.stateless_normal([5, 2], seed=[1, 2]), NONE),
        (lambda x: called(lambda y: y + 1)(tf.constant(2.0)), NONE),
        (lambda x: called(lambda y: y + tf.random.normal([]))(tf.constant(2.0)), OTHER),
        (lambda x: called(lambda y: y + 1)(x), OTHER),
        (lambda x: tf.cond(tf.constant(True), lambda: tf.constant(1.0), lambda: tf.constant(2.0)), NONE),
    ],
)
def test_a_tensor_is_classified(function, expected):
    assert of(function) is expected


def test_the_step_may_say_what_the_graph_does_not_show():
    def summed(x):
        return 2.0 * tf.reduce_max(x, name="of_all")

    assert of(summed) is OTHER and of(summed, ["of_all:0"]) is NONE


def test_what_one_replica_says_is_equal_the_others_know():
    """All replicas' operations are in one graph, and a sum of all depends on the rows of each."""

    def trace(x):
        total = tf.reduce_max(x)
        equal = set()
        first, second = (StepRows(x.graph, [x], equal) for _ in range(2))
        first.set(total, NONE)
        assert second.of(2.0 * total) is NONE
        assert StepRows(x.graph, [x]).of(2.0 * total) is OTHER

    tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec((None, 3)))


def test_a_comparison_with_itself_is_the_same_for_all_rows():
    """`tf.recompute_grad` makes one."""

    def with_itself(x):
        first = tf.reduce_max(x)
        return first == first

    assert of(with_itself) is NONE
