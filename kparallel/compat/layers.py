"""What Keras's layers keep private."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf

__all__: list[str] = []


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model and every layer below it, parents first."""
    layers: list[keras.layers.Layer] = model._flatten_layers()
    return layers


def own_metrics(layers: Sequence[keras.layers.Layer]) -> list[keras.metrics.Metric]:
    """Return the metrics that layers and models hold themselves, as attributes."""
    return [metric for layer in layers for metric in layer._metrics]


def seed_states(model: keras.Model) -> set[int]:
    """Return the ids of the variables that hold seed generators' states."""
    return {id(g.state) for layer in model._flatten_layers() for g in layer._seed_generators}


def float8_variables(layers: Sequence[keras.layers.Layer]) -> set[int]:
    """Return the ids of the variables of Keras's float8 layers that are overwritten with their gradient."""
    variables = [v for layer in layers if layer.quantization_mode == "float8" for v in layer.trainable_variables]
    return {id(v) for v in variables if v.overwrite_with_gradient and v.name.endswith(("_scale", "_amax_history"))}


def recurrent_states(layers: Sequence[keras.layers.Layer]) -> list[keras.Variable]:
    """Return what stateful recurrent layers carry from batch to batch; no layer counts it among its variables."""
    known = [layer for layer in layers if isinstance(layer, keras.layers.RNN) and layer.stateful]
    found = [variable for layer in known for variable in keras.tree.flatten(layer.states)]
    return [variable for variable in found if variable is not None]


@contextmanager
def of_other_rows(
    variables: Sequence[tuple[keras.Variable, tf.Tensor]], layers: Sequence[keras.layers.Layer]
) -> Iterator[None]:
    """Let recurrent layers, and the variables of their states, take as many rows as some values have.

    Args:
        variables: With values of other rows.
        layers: The layers that may check the number of rows.
    """
    shapes = [variable._shape for variable, _ in variables]
    expected = {layer: layer._expected_batch_size for layer in layers if hasattr(layer, "_expected_batch_size")}
    for variable, value in variables:
        variable._shape = tuple(value.shape)
    for layer in expected:
        # The batch size that Keras checks against is that of the whole batch.
        layer._expected_batch_size = None
    try:
        yield
    finally:
        for (variable, _), shape in zip(variables, shapes, strict=True):
            variable._shape = shape
        for layer, size in expected.items():
            layer._expected_batch_size = size
