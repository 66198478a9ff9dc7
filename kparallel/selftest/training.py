"""Trains a small model over everything, and holds it against one device."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

__all__: list[str] = []

TOLERANCE = 1e-9  # In float64.
_ROWS, _BATCH = 60, 13  # The last batch is smaller, and no batch divides evenly.


def difference_from_plain(wrap: Callable[[Any], Any]) -> float:
    """Train a model that was wrapped, and the same model as plain Keras, in float64.

    Args:
        wrap: Returns the wrapped model.

    Returns:
        The largest difference of weights and losses.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        return float(np.abs(_trained(wrap) - _trained(lambda model: model)).max())
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def is_equal(difference: float) -> bool:
    """Whether a difference is rounding; NaN is none."""
    return difference <= TOLERANCE


def result_text(differences: Sequence[float]) -> str:
    """Say how training went; name the workers on which it does not equal one device.

    Args:
        differences: One for each worker.

    Example:
        >>> print(result_text([2e-16, 0.5]))
        training: WRONG on worker 1: 0.5 from one device, expected at most 1e-09
    """
    wrong = {index: difference for index, difference in enumerate(differences) if not is_equal(difference)}
    if not wrong:
        return f"training: equal to one device, at most {max(differences):.1g} from it in float64"
    workers = ", ".join(f"worker {index}" for index in wrong)
    largest = max(wrong.values(), key=lambda difference: (math.isnan(difference), difference))
    return f"training: WRONG on {workers}: {largest:.2g} from one device, expected at most {TOLERANCE:g}"


def _trained(wrap: Callable[[Any], Any]) -> "np.ndarray[Any, Any]":
    """Return the losses and weights after two epochs."""
    keras.utils.set_random_seed(0)
    # Adam alone would hide a gradient that is wrong by a factor. Clipping by its norm shows it.
    layers = [keras.layers.Dense(32, activation="tanh"), keras.layers.LayerNormalization(), keras.layers.Dense(1)]
    model = wrap(keras.Sequential([keras.Input((8,)), *layers]))
    model.compile(keras.optimizers.Adam(0.01, clipnorm=1.0), "mse")
    x = np.random.default_rng(0).normal(size=(_ROWS, 8))
    y = np.sin(x.sum(axis=1))
    history = model.fit(x, y, batch_size=_BATCH, epochs=2, shuffle=False, verbose=0).history["loss"]
    return np.concatenate([history, *(weight.ravel() for weight in model.get_weights())])
