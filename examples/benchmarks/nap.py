"""Layers that take time and no core: a stage whose passes last as long as one says."""

import time
from typing import Any

import keras
import tensorflow as tf

__all__: list[str] = []


@keras.saving.register_keras_serializable("kparallel_benchmarks")
class Nap(keras.layers.Layer):  # type: ignore[misc]
    """A layer of one weight that sleeps, and twice in its backward pass.

    Args:
        seconds: Of one nap forward.
        naps: How many a pass takes: as many as the microbatches that it stands for.
        parted: Whether the backward pass has one nap before the gradient of the input and the other before that of the
            weight, in place of two before both.
    """

    def __init__(self, seconds: float, naps: int = 1, parted: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.seconds = seconds
        self.naps = naps
        self.parted = parted

    def build(self, _: Any) -> None:
        """Make the weight."""
        self.scale = self.add_weight(shape=(), initializer="ones")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config: dict[str, Any] = super().get_config()
        return config | {"seconds": self.seconds, "naps": self.naps, "parted": self.parted}

    def call(self, x: Any) -> Any:
        """Return the inputs, scaled, after the naps."""

        before_both = self.naps if self.parted else 2 * self.naps

        @tf.custom_gradient
        def work(value: tf.Tensor) -> Any:
            return _later(value, self.seconds, self.naps), lambda dy: _later(dy, self.seconds, before_both)

        @tf.custom_gradient
        def weight(value: tf.Tensor) -> Any:
            return tf.identity(value), lambda dy: _later(dy, self.seconds, self.naps)

        scale = tf.convert_to_tensor(self.scale)
        return work(tf.convert_to_tensor(x * (weight(scale) if self.parted else scale)))


def _later(value: tf.Tensor, seconds: float, naps: int) -> tf.Tensor:
    """Return a tensor that is there some naps after its input; who sleeps keeps a thread, but neither core nor GIL.

    Each nap is a call of its own, as each action of a pipeline makes one: a call from TensorFlow into Python costs up
    to a millisecond, which is no time of the executor's.
    """

    def sleep(array: Any) -> Any:
        time.sleep(seconds)
        return array

    for _ in range(naps):
        shape = value.shape
        value = tf.numpy_function(sleep, [value], value.dtype, stateful=False)
        value.set_shape(shape)
    return value
