"""The FLOP/s of this machine: how fast a device multiplies matrices, and how much of that layers reach."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced

__all__: list[str] = []

_SIZE = 1024
_REPETITIONS = 5


def matmul_rate(dtype: str, device: str = "CPU:0", size: int = _SIZE) -> float:
    """Return the FLOP/s of a product of two square matrices.

    Args:
        dtype: The dtype of the matrices.
        device: The device. Default the first CPU.
        size: The number of their rows and columns. Default 1,024.
    """
    with tf.device(device):
        matrix = tf.ones([size, size], dtype)
        multiply = traced(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])
        return 2.0 * size**3 / _seconds(multiply)


def layer_efficiency(dtype: str, rate: float, device: str = "CPU:0", width: int = 512, rows: int = 128) -> float:
    """Return the fraction of the FLOP/s of large matrices that dense layers reach, forward and backward, at most 1.

    Args:
        dtype: Their dtype.
        rate: The FLOP/s of large matrices.
        device: The device. Default the first CPU.
        width: The number of units of each layer. Default 512.
        rows: The number of rows. Default 128.
    """
    with tf.device(device):
        layers = [keras.layers.Dense(width, activation="relu", dtype=dtype) for _ in range(4)]
        x = tf.ones([rows, width], dtype)
        model = keras.Sequential(layers)
        model(x)

        def gradients() -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x))
            found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
            return tf.add_n([tf.reduce_sum(gradient) for gradient in found])

        flops = 3 * len(layers) * 2.0 * rows * width**2
        return min(1.0, flops / _seconds(traced(gradients)) / rate)


def _seconds(run: Callable[[], Any]) -> float:
    """Return the median time of a call, after one that is not timed."""
    samples = []
    for _ in range(_REPETITIONS + 1):
        start = time.perf_counter()
        run().numpy()  # Waits for the result.
        samples.append(time.perf_counter() - start)
    return median(samples[1:])
