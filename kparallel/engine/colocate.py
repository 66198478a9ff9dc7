"""Device functions: operations run on the device of their inputs, or of the forward operations they differentiate."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

__all__: list[str] = []


def colocate_with_inputs() -> AbstractContextManager[Any]:
    """Place each operation without a device of its own on the device of its first input that has one.

    Keras clips and scales all gradients in one list, by operations without a device. Without this context they would
    run on the replica's first device, and the gradients of every stage would travel there and back. With it only their
    norms travel. Eager operations already run where their inputs are.
    """
    if tf.executing_eagerly():
        return nullcontext()

    def place(operation: Any) -> str:
        if operation.device:
            return str(operation.device)
        # A device function gets operations in the order of tracing, so the inputs have their devices already.
        return next((tensor.device for tensor in operation.inputs if tensor.device), "")

    device: AbstractContextManager[Any] = tf.compat.v1.get_default_graph().device(place)
    return device


def colocate_with_forward() -> AbstractContextManager[Any]:
    """Place each operation of a backward pass on the device of the forward operation that it differentiates.

    A model that cannot be cut into stages is differentiated by one tape, even if its layers are on several devices.
    TensorFlow gives the operations of a tape no device, but names them after the forward operation or its name scope:

    ```text
    forward    block/dense/MatMul                       /device:CPU:1
    backward   gradient_tape/block/dense/MatMul/grad    ─► longest prefix with a known device: block/dense/MatMul
    ```
    """
    if tf.executing_eagerly():
        return nullcontext()
    graph = tf.compat.v1.get_default_graph()
    # By the name of an operation, and of a scope: the device of its first operation that has one.
    devices: dict[str, str] = {}
    for operation in graph.get_operations():
        scope = operation.name.rpartition("/")[0]
        for name in (operation.name, scope):
            if operation.device:
                devices.setdefault(name, operation.device)

    def place(operation: Any) -> str:
        # The scopes of a name from the innermost outwards: the nearest forward operation decides.
        parts = operation.name.removeprefix("gradient_tape/").split("/")
        for end in range(len(parts), 0, -1):
            device = devices.get("/".join(parts[:end]))
            if device:
                return str(device)
        return str(operation.device)

    device: AbstractContextManager[Any] = graph.device(place)
    return device
