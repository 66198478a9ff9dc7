"""RowRange operations where their inputs, or the forward operations that they differentiate, are."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

__all__: list[str] = []


def colocate_with_inputs() -> AbstractContextManager[Any]:
    """RowRange each operation without a device of its own on the device of its first input that has one.

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


def colocate_with_forward() -> AbstractContextManager[Any]:
    """RowRange each operation of a backward pass on the device of the operation that it differentiates.

    A model whose layers lie on several devices, but which is no graph that could be cut, is differentiated by one tape.
    TensorFlow names what a tape makes after the forward operation or its scope, and would leave it without a device.
    """
    if tf.executing_eagerly():
        return nullcontext()
    graph = tf.compat.v1.get_default_graph()
    devices: dict[str, str] = {}
    for operation in graph.get_operations():
        scope = operation.name.rpartition("/")[0]
        for name in (operation.name, scope):
            if operation.device:
                devices.setdefault(name, operation.device)

    def place(operation: Any) -> str:
        parts = operation.name.removeprefix("gradient_tape/").split("/")
        for end in range(len(parts), 0, -1):
            device = devices.get("/".join(parts[:end]))
            if device:
                return str(device)
        return str(operation.device)

    device: AbstractContextManager[Any] = graph.device(place)
    return device
