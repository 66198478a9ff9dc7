"""The time of a whole pass, to which the times of calls are scaled."""

import keras
import pytest
import tensorflow as tf

from kparallel.stage import whole_pass
from kparallel.stage.graph import open_graph

L = keras.layers


def test_a_pass_runs_forward_and_backward_with_weights_of_its_own_on_each_device(monkeypatch):
    """Lookups, statistics, random numbers and outputs of several dtypes have their place in it."""
    tokens = keras.Input((4,), dtype="int32")
    x = L.Dropout(0.5)(L.BatchNormalization()(L.Embedding(10, 3)(tokens)))
    model = keras.Model(tokens, [L.Dense(2)(x), keras.ops.argmax(x, -1)])
    before = [weight.numpy() for weight in model.weights]
    traced = []

    def timed(run, arguments, repeats):
        traced.append([list(run.get_concrete_function(arguments).graph.get_operations()), len(run(arguments)), repeats])
        return 0.5

    monkeypatch.setattr(whole_pass, "median_time", timed)
    seconds = whole_pass.whole_pass(open_graph(model), [tf.zeros([5, 4], tf.int32)], devices=["CPU:0", "CPU:1"])
    ((operations, results, repeats),) = traced
    assert seconds == 0.5 and repeats == 5
    assert results == 2 * 6  # Gradients of two vectors, a table, a kernel and a bias, and one output.
    of_devices = [[each for each in operations if each.device.endswith(f"CPU:{index}")] for index in range(2)]
    for of_one in of_devices:
        kinds = [each.type for each in of_one]
        # A Dense layer's kernel has a gradient, which is a second product.
        assert kinds.count("MatMul") + kinds.count("Einsum") + kinds.count("BatchMatMulV2") >= 2
    assert all((weight.numpy() == value).all() for weight, value in zip(model.weights, before, strict=True))


def test_times_add_up_to_the_pass():
    assert whole_pass.scaled([1.0, 2.0], 6.0) == [2.0, 4.0]
    assert whole_pass.scaled([0.0, 0.0], 6.0) == [pytest.approx(3.0)] * 2
