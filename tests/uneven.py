"""A net whose weights are of different sizes, and rows to train it with: for tests of what replicas share out."""

import keras
import numpy as np

L = keras.layers
_RNG = np.random.default_rng(0)
X, Y = _RNG.normal(size=(10, 3)), _RNG.normal(size=(10, 1))


def net():
    """Of 99 weights, 35 of them in one kernel."""
    hidden = [L.Dense(5, activation="tanh"), L.Dense(7, activation="tanh"), L.Dense(4, activation="tanh")]
    return keras.Sequential([keras.Input((3,)), *hidden, L.Dense(1)])


def fit(model, **options):
    """Train a model for one epoch, whose last batch is smaller than the others."""
    return model.fit(X, Y, batch_size=4, shuffle=False, verbose=0, **options).history
