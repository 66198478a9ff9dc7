"""Penalties on weights count once, whatever part of the rows a replica has."""

from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from kparallel.engine.regularization import add_regularization
from kparallel.engine.replica_result import ReplicaResult
from tests.equality.measure import use
from tests.pairs import pair


def squares(weight):
    return tf.reduce_sum(weight**2)


def run(regularizer, borrowed=False):
    """Return the gradient and the penalty of one weight [1, 2], of which this replica has 2 of 8 rows."""
    variable = SimpleNamespace(regularizer=regularizer)
    stage = SimpleNamespace(weights=[variable], owned=[] if borrowed else [variable])
    replica = SimpleNamespace(pipeline=SimpleNamespace(stages=(stage,)), devices=("CPU:0",))
    weights, gradients = [[tf.constant([1.0, 2.0])]], [[tf.constant([10.0, 10.0])]]
    held = SimpleNamespace(one=lambda s, w: weights[s][w])
    result = ReplicaResult((2,), held, [[]], [[]], [[None]], {}, gradients, [{}], [[]])
    asked = []

    def part():
        asked.append(1)
        return tf.constant(0.25, tf.float64)

    result, values = add_regularization(replica, result, part, lambda factor: 8 * factor)  # 8: a loss scale.
    return result.gradients[0][0].numpy().tolist(), [float(value) for value in values], len(asked)


def test_a_penalty_and_its_gradient_are_weighed_by_the_rows():
    # The gradient of squares is 2 w; times 1/4 of the rows and the loss scale that is 4 w. The value has no scale.
    assert run(squares) == ([14.0, 18.0], [1.25], 1)


def test_without_a_penalty_the_rows_of_the_batch_are_not_asked_for():
    assert run(None) == ([10.0, 10.0], [], 0)
    assert run(squares, borrowed=True) == ([10.0, 10.0], [], 0)


def near_another():
    """Keep one layer near another, which is in the first stage, and far from a lookup's rows, which get no gradient."""
    first, second = keras.layers.Dense(3, name="first"), keras.layers.Dense(3, "tanh", name="second")

    def near(kernel):
        fixed = tf.stop_gradient(tf.gather(second.kernel.value, [0]))
        return tf.reduce_sum((kernel - tf.gather(first.kernel.value, [1, 0, 2])) ** 2 - 0.1 * (kernel - fixed) ** 2)

    last = keras.layers.Dense(3, kernel_regularizer=near, name="last")
    model = keras.Sequential([keras.Input((3,)), first, second, last])
    model.compile("sgd", "mse")
    return model


def test_a_penalty_that_reads_another_layers_weight_equals_one_device():
    use("float64")
    x = np.random.default_rng(0).normal(size=(5, 3))
    plain, wrapped = pair(near_another, replicas=1, stages=2, microbatches=2)
    for model in (plain, wrapped):
        model.fit(x, x, batch_size=5, epochs=2, verbose=0)
    for one, other in zip(wrapped.variables, plain.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-9)
