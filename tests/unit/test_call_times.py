"""The time of calls as lines over the rows."""

import keras
import pytest
import tensorflow as tf

from kparallel.stage import call_times, costs
from kparallel.stage.call_times import CallTime, lines
from kparallel.stage.graph import open_graph


def test_lines_neither_start_below_zero_nor_fall():
    assert lines(1, [1.0], 4, [4.0]) == [CallTime(0.0, 1.0)]
    assert lines(1, [5.0], 4, [4.0]) == [CallTime(4.0, 0.0)]  # Noise: fewer rows took longer.
    assert lines(1, [0.0], 4, [4.0]) == [CallTime(0.0, 1.0)]
    assert lines(2, [3.0], 8, [6.0]) == [CallTime(2.0, 0.5)]


def test_gradients_are_computed_on_every_device():
    seen = []

    def told(value):
        seen.append(1)
        return value

    class Watched(keras.layers.Layer):
        def call(self, x):
            @tf.custom_gradient
            def passed(x):
                # Stateless: TensorFlow may remove it where nothing reads the gradient.
                return x + 1.0, lambda dy: tf.ensure_shape(tf.numpy_function(told, [dy * x], dy.dtype, False), x.shape)

            return passed(x)

    graph = open_graph(keras.Sequential([keras.Input((3,)), Watched()]))
    (seconds,) = costs.measured(graph, [tf.zeros([8, 3])], repeats=1, devices=["CPU:0", "CPU:1"])
    assert seconds >= 0 and len(seen) == 3 * 2  # Once for the inputs of later calls, once to warm up, once timed.


def test_all_rows_and_a_quarter_of_them_are_measured(monkeypatch):
    asked = []

    def measured(graph, inputs, devices):
        asked.append([tuple(value.shape) for value in inputs])
        return [1.0 + inputs[0].shape[0]]

    monkeypatch.setattr(call_times, "measured", measured)
    # The pass takes as long as its only call.
    monkeypatch.setattr(call_times, "whole_pass", lambda graph, inputs, devices: 1.0 + inputs[0].shape[0])
    graph = open_graph(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    assert call_times.call_times(graph, [tf.zeros([8, 3])]) == [CallTime(pytest.approx(1.0), pytest.approx(1.0))]
    assert asked == [[(8, 3)], [(2, 3)]]
    assert call_times.call_times(graph, [tf.zeros([1, 3])]) == [CallTime(0.0, 2.0)]
