"""Gradients that are weighted at a loss."""

import numpy as np
import tensorflow as tf

from kparallel.ownstep.output_gradients import scaled_outputs

WEIGHT = tf.Variable([1.0, 2.0], dtype=tf.float32)


def test_gradients_come_out_times_the_factor():
    with tf.GradientTape() as tape:
        losses = {"sum": tf.reduce_sum(WEIGHT**2), "rows": WEIGHT * [3.0, 4.0]}
    outputs = scaled_outputs(losses, [WEIGHT], 0.25)
    np.testing.assert_array_equal(tape.gradient(losses, WEIGHT, outputs), [0.25 * (2 + 3), 0.25 * (4 + 4)])


def test_a_factor_keeps_the_digits_that_the_weights_have():
    wide = tf.Variable([1.0], dtype=tf.float64)
    assert float(scaled_outputs(tf.constant(1.0, tf.float64), [wide], 1 / 3)) == 1 / 3
    for loss in (tf.constant(1.0, tf.float32), tf.constant(1), 1.0, WEIGHT):
        assert scaled_outputs(loss, [wide], 1 / 3) is None
