"""Checks whether a model can be wrapped."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.layers import flatten_layers
from kparallel.errors import BackendError, ModelError
from kparallel.model.overrides import check_overrides

__all__: list[str] = []


def check_surroundings() -> None:
    """Check that Keras runs on TensorFlow, and that no strategy's scope is active.

    Raises:
        BackendError: Keras has another backend.
        ModelError: A strategy's scope is active.
    """
    if keras.backend.backend() != "tensorflow":
        raise BackendError(
            f"Expected Keras on TensorFlow, received the backend {keras.backend.backend()!r}. "
            "Set KERAS_BACKEND=tensorflow before Keras is imported."
        )
    if tf.distribute.has_strategy():
        raise ModelError(
            "Expected a call outside any strategy's scope, received one inside that of "
            f"{type(tf.distribute.get_strategy()).__name__}. Build the model there if need be; call kparallel after "
            "the `with` block: it makes a strategy of its own."
        )


def check_model(model: Any) -> None:
    """Check that a model can be wrapped.

    Raises:
        ModelError: The model cannot be wrapped; the message says why, and the way out.
    """
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        hint = " Legacy tf_keras models are not supported: build it with Keras 3." if "tf_keras" in kind else ""
        raise ModelError(f"Expected a keras.Model or a function that builds one, received {kind}.{hint}")
    check_overrides(model)
    for layer in flatten_layers(model):
        # The states of Keras's recurrent layers are known by `recurrent_states`, and divided by rows.
        if getattr(layer, "stateful", False) and not isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
            raise ModelError(
                f"Layer {layer.name!r} is stateful=True, so its state belongs to one batch's rows. Only Keras's "
                "recurrent layers say which variables that are. Set it False."
            )
