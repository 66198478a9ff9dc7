"""Holds a wrapped model against the plain one it was made from."""

import keras
import numpy as np

# In float64, on every weight, slot, log and output.
TOLERANCE = 1e-9


def doubles():
    """Compute in float64, so that equality means something."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def assert_alike(got, want, name=""):
    """Compare nested outputs, logs or lists of arrays."""
    keras.tree.assert_same_structure(got, want)
    for one, other in zip(keras.tree.flatten(got), keras.tree.flatten(want), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=TOLERANCE, err_msg=name)


def state(model):
    """Return every weight and optimizer variable that a seed does not hold."""
    variables = [*model.weights, *model.optimizer.variables]
    return [variable.numpy() for variable in variables]


def assert_fit_alike(wrapped, plain, fit, compile_arguments):
    """Compile and fit both models alike; compare weights, slots and history.

    `compile_arguments` and `fit` are called once per model, the latter with the model, and give keyword arguments.
    """
    histories = []
    for model in (plain, wrapped):
        model.compile(**compile_arguments())
        histories.append(model.fit(**{"verbose": 0, "shuffle": False, **fit(model)}).history)
    assert_alike(histories[1], histories[0], "history")
    assert_alike(state(wrapped), state(plain), "state")
