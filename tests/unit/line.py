"""A line fitted to some rows, plain or wrapped."""

import keras
import numpy as np

import kparallel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3))
Y = RNG.normal(size=(24, 1))


def net(optimizer, replicas=None):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model = kparallel.wrap(model, replicas=replicas) if replicas else model
    model.compile(optimizer, "mse")
    return model


def fit(model, callback, epochs=2, **arguments):
    return model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback], **arguments)
