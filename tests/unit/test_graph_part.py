"""Parts of a traced graph as functions of their own."""

import numpy as np
import tensorflow as tf

from kparallel.engine.graph_part import TracedGraph, ancestors


def traced(function, *specs):
    """Return the graph of a function, its arguments and what it returned, as tensors of the graph."""
    found = {}

    def run(*arguments):
        found.update(arguments=arguments, results=function(*arguments))

    graph = tf.function(run, autograph=False).get_concrete_function(*specs).graph
    return graph, found["arguments"], found["results"]


def test_two_parts_one_after_the_other_compute_what_the_graph_does():
    graph, (a, b), (inner, last) = traced(
        lambda a, b: [inner := a * b, tf.exp(inner) + b], *[tf.TensorSpec([2], tf.float64)] * 2
    )
    given = {a.op, b.op}
    first, second = ancestors([inner], given), ancestors([last], given | {inner.op})
    assert not first & second
    whole = TracedGraph(graph)
    one, other = whole.part(first, [inner], jit=False), whole.part(second, [last], jit=False)
    assert [t.name for t in one.takes] == sorted([a.name, b.name]) and [t.name for t in one.gives] == [inner.name]
    assert {t.name for t in other.takes} == {inner.name, b.name}
    values = {a.name: tf.constant([1.0, 2.0], tf.float64), b.name: tf.constant([3.0, 4.0], tf.float64)}
    values |= one(values)
    result = other(values)[last.name].numpy()
    np.testing.assert_allclose(result, np.exp([3.0, 8.0]) + [3.0, 4.0], rtol=1e-15)


def test_constants_belong_to_each_part_that_reads_them_whatever_they_wait_for():
    def work(a):
        with tf.control_dependencies([tf.identity(a)]):
            shape = tf.constant([3, 2]) * tf.constant([1, 1])
        inner = tf.reshape(a, shape)
        return [inner, tf.reshape(inner * 2.0, shape + [-1, 1])]

    graph, (a,), (inner, last) = traced(work, tf.TensorSpec([6], tf.float64))
    whole = TracedGraph(graph)
    first = whole.part(ancestors([inner], {a.op} | whole.repeated), [inner], jit=True)
    second = whole.part(ancestors([last], {a.op, inner.op} | whole.repeated), [last], jit=True)
    assert [t.name for t in first.takes] == [a.name] and [t.name for t in second.takes] == [inner.name]
    values = first({a.name: tf.range(6.0, dtype=tf.float64)})
    assert second(values)[last.name].numpy().tolist() == [[0, 2, 4], [6, 8, 10]]


def test_a_part_takes_the_functions_that_it_calls_and_keeps_the_shapes_that_python_had_set():
    def work(a):
        chosen = tf.cond(a[0] > 0, lambda: tf.exp(a), lambda: -a)
        slept = tf.numpy_function(lambda x: x, [chosen], tf.float64, stateful=False)
        slept.set_shape([2])
        return [slept]

    graph, (a,), (last,) = traced(work, tf.TensorSpec([2], tf.float64))
    part = TracedGraph(graph).part(ancestors([last], {a.op}), [last], jit=False)
    assert part({a.name: tf.constant([-1.0, 2.0], tf.float64)})[last.name].numpy().tolist() == [1, -2]
    assert part.function.structured_outputs[0].shape == [2]


def test_a_part_that_gives_nothing_is_not_called():
    graph, (a,), _ = traced(lambda a: [a * 2], tf.TensorSpec([2], tf.float64))
    assert TracedGraph(graph).part(set(), [], jit=False)({}) == {}


def test_what_follows_from_arguments_that_are_given_anew_is_in_each_part_that_reads_it():
    def work(a, weight):
        folded = tf.transpose(weight) + tf.constant(1.0, tf.float64)
        drawn = weight * tf.random.uniform([2, 2], dtype=tf.float64)  # Of the weight alone, but not the same again.
        inner = a @ folded + drawn
        return [inner, tf.exp(inner) @ folded * drawn, drawn]

    specs = [tf.TensorSpec([2, 2], tf.float64)] * 2
    graph, (a, weight), (inner, last, drawn) = traced(work, *specs)
    whole = TracedGraph(graph, {weight.op})
    given = {a.op, weight.op} | whole.repeated
    first = ancestors([inner], given)
    one = whole.part(first, [inner, drawn], jit=False)
    other = whole.part(ancestors([last], given | first), [last], jit=False)
    assert {t.name for t in other.takes} == {inner.name, drawn.name, weight.name}
    values = {a.name: tf.eye(2, dtype=tf.float64), weight.name: tf.constant([[1.0, 2], [3, 4]], tf.float64)}
    values |= one(values)
    values[weight.name] = tf.constant([[5.0, 6], [7, 8]], tf.float64)
    wanted = np.exp(values[inner.name]) @ [[6.0, 8], [7, 9]] * values[drawn.name]
    np.testing.assert_allclose(other(values)[last.name], wanted, rtol=1e-14)
