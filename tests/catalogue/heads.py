"""What losses and metrics are given: outputs of one model, with targets for each."""

import inspect
from types import ModuleType

import keras
import numpy as np

from tests.catalogue.measure import ROWS

L = keras.layers
CLASSES = 3


def head(kind, hidden, name):
    """Return an output for targets of a kind."""
    if kind == "sequence":
        return L.Reshape((4, CLASSES), name=name)(L.Dense(4 * CLASSES)(hidden))
    if kind == "binary":
        return L.Dense(1, activation="sigmoid", name=name)(hidden)
    # Not a softmax: rows whose sums are alike would make a ratio of sums a mean over rows.
    return L.Dense(CLASSES, activation="sigmoid", name=name)(hidden)


def classes_of(probabilities, name):
    """Return the likeliest class as an output."""
    return L.Lambda(lambda values: keras.ops.cast(keras.ops.argmax(values, -1), "float64"), name=name)(probabilities)


def single(probabilities, name):
    """Return probabilities in float32 as an output."""
    return L.Lambda(lambda values: keras.ops.cast(values, "float32"), dtype="float32", name=name)(probabilities)


def inputs():
    return np.random.default_rng(0).normal(size=(ROWS, 4))


def target(kind):
    """Return the targets of a kind: one-hot vectors, class numbers, zeros and ones, or sequences without a blank."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, size=ROWS)
    if kind == "sequence":
        return rng.integers(1, CLASSES, size=(ROWS, 2))
    if kind == "binary":
        return rng.integers(0, 2, size=(ROWS, 1)).astype("float64")
    return np.eye(CLASSES)[labels] if kind.startswith("probabilities") else labels


def weights():
    """Return a weight for each row, one of them 0."""
    return np.arange(ROWS) / 4.0


def functions(package: ModuleType) -> list[str]:
    """Return the names of a package's functions of targets and outputs that need nothing more."""
    found = []
    for name, function in inspect.getmembers(package, inspect.isfunction):
        first, *rest = inspect.signature(function).parameters.values()
        others = [each for each in rest if each.default is each.empty]
        if first.name == "y_true" and [each.name for each in others] == ["y_pred"]:
            found.append(name)
    return found
