"""The speed of this machine's devices: products of matrices, layers, memory, the start of a pass, and loops.

Several devices are measured at the same time, since virtual CPU devices share cores.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced

__all__: list[str] = []

_CPU_SIZE, _GPU_SIZE = 512, 4096  # Rows and columns of a matrix.
_REPETITIONS = 5
_LEAST_TIME = 0.25  # Seconds of runs: a few milliseconds may all fall into what else the machine does.
_LAYERS, _WIDTH, _ROWS = 4, 256, 128  # Of the layers whose efficiency is measured.
_ACTIONS = 16
_TIME_STEPS = 64
_NUMBERS = 2**22  # Of a tensor that is read and written.


def matmul_rate(dtype: str, devices: Sequence[str] = ("CPU:0",)) -> float:
    """Return the FLOP/s of a product of two square matrices on each of some devices that all work.

    Args:
        dtype: The dtype of the matrices.
        devices: The devices. Default the first CPU.
    """
    # Large enough to use all of a device, and small enough to take milliseconds.
    size = _GPU_SIZE if devices[0].startswith("GPU") else _CPU_SIZE
    matrices = [_on(name, lambda: tf.ones([size, size], dtype)) for name in devices]
    seconds = _seconds(lambda matrix: tf.linalg.matmul(matrix, matrix)[0, 0], devices, matrices)
    return 2.0 * size**3 / seconds


def layer_efficiency(rate: float, devices: Sequence[str] = ("CPU:0",)) -> float:
    """Return the fraction of the FLOP/s of matrices that float32 layers reach, forward and backward, at most 1.

    Args:
        rate: The FLOP/s of a product of matrices in float32.
        devices: The devices. Default the first CPU.
    """
    kernels = [_on(name, lambda: [tf.ones([_WIDTH, _WIDTH])] * _LAYERS) for name in devices]

    def gradients(weights: Sequence[tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            x = tf.ones([_ROWS, _WIDTH])
            tape.watch(x)
            y = x
            for weight in weights:
                y = tf.nn.relu(tf.linalg.matmul(y, weight))
            loss = tf.reduce_sum(y)
        return tf.add_n([tf.reduce_sum(gradient) for gradient in tape.gradient(loss, [x, *weights])])

    # Forward once, backward twice as much; a product of matrices is a multiplication and an addition for each entry.
    flops = 3 * _LAYERS * 2.0 * _ROWS * _WIDTH**2
    return min(1.0, flops / _seconds(gradients, devices, kernels) / rate)


def memory_rate(devices: Sequence[str] = ("CPU:0",)) -> float:
    """Return the bytes a second of reading and writing a large tensor on each of some devices that all work."""
    tensors = [_on(name, lambda: tf.ones([_NUMBERS])) for name in devices]
    return 2 * 4 * _NUMBERS / _seconds(lambda tensor: (tensor + 1.0)[0], devices, tensors)


def pass_start(devices: Sequence[str] = ("CPU:0",)) -> float:
    """Return the seconds of a pass of four layers with next to nothing to compute."""
    kernels = [_on(name, lambda: tf.ones([8, 8])) for name in devices]

    def passes(kernel: tf.Tensor) -> tf.Tensor:
        y = tf.ones([1, 8])
        for _ in range(_ACTIONS * _LAYERS):
            y = tf.nn.relu(tf.linalg.matmul(y, kernel))
        return y[0, 0]

    # Matrices so small that starting the operations is all that takes time.
    return _seconds(passes, devices, kernels) / _ACTIONS


def loop_step(devices: Sequence[str] = ("CPU:0",)) -> float:
    """Return the seconds of the forward pass of one time step of a recurrent layer with next to nothing to compute."""
    layer = keras.layers.LSTM(8, return_sequences=True)
    layer.build((1, _TIME_STEPS, 8))
    state = [tf.convert_to_tensor(variable) for variable in layer.non_trainable_variables]
    weights = [
        _on(name, lambda: [tf.identity(tf.convert_to_tensor(variable)) for variable in layer.trainable_variables])
        for name in devices
    ]

    def steps(values: Sequence[tf.Tensor]) -> tf.Tensor:
        outputs, _ = layer.stateless_call(values, state, tf.ones([1, _TIME_STEPS, 8]))
        return outputs[0, -1, 0]

    return _seconds(steps, devices, weights) / _TIME_STEPS


def default_dtypes() -> tuple[str, ...]:
    """Return the dtypes in which Keras models compute."""
    return tuple(dict.fromkeys(("float32", "float64", "bfloat16", "float16", keras.config.floatx())))


def _on(device: str, make: Callable[[], Any]) -> Any:
    with tf.device(device):
        return make()


def _seconds(run: Callable[[Any], tf.Tensor], devices: Sequence[str], values: Sequence[Any]) -> float:
    """Return the least time of running a function on all devices at once, after one run that is not timed.

    What else runs on the machine makes a run longer, and never shorter.
    """

    def on_all(arguments: Sequence[Any]) -> list[tf.Tensor]:
        return [_on(name, partial(run, value)) for name, value in zip(devices, arguments, strict=True)]

    function = traced(on_all)

    def seconds() -> float:
        start = time.perf_counter()
        for result in function(list(values)):
            result.numpy()  # Waits for it.
        return time.perf_counter() - start

    seconds()
    samples: list[float] = []
    while len(samples) < _REPETITIONS or sum(samples) < _LEAST_TIME:
        samples.append(seconds())
    return min(samples)
