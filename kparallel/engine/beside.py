"""Place operations where their inputs are."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

__all__: list[str] = []


def beside_inputs() -> AbstractContextManager[Any]:
    """Place each operation without a device of its own on the device of its first input that has one.

    Keras clips and scales all gradients in one list, in plain operations. Without this they would all be computed
    on the replica's first device, and every stage's gradients would travel there and back; with it only their
    norms do. Eagerly, TensorFlow already computes where the inputs are.
    """
    if tf.executing_eagerly():
        return nullcontext()

    def place(operation: Any) -> str:
        if operation.device:
            return str(operation.device)
        return next((tensor.device for tensor in operation.inputs if tensor.device), "")

    device: AbstractContextManager[Any] = tf.compat.v1.get_default_graph().device(place)
    return device
