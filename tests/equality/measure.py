"""Trains a case and compares what came out."""

import functools

import keras
import numpy as np

from tests.equality.cases import CASES
from tests.equality.models import BATCH, ROWS

EPOCHS = 2


def use(policy):
    """Compute under a dtype policy; mixed ones hold their variables in float32."""
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    keras.config.set_dtype_policy(policy)


def permuted(data, seed):
    """Change the order of the rows inside each batch."""
    if seed is None:
        return data
    rng = np.random.default_rng(seed)
    order = np.concatenate([start + rng.permutation(min(BATCH, ROWS - start)) for start in range(0, ROWS, BATCH)])
    return keras.tree.map_structure(lambda array: array[order], data)


def train(model, case, seed=None):
    """Fit a model and return what it came to, by name: weights, optimizer variables, history."""
    model.compile(**case.compile())
    x, y, *weight = permuted(case.data(), seed)
    arguments = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0, **case.fit()}
    history = model.fit(x, y, sample_weight=weight[0] if weight else None, **arguments)
    found = {f"weight {number}": value for number, value in enumerate(model.get_weights())}
    found |= {f"slot {number}": variable.numpy() for number, variable in enumerate(model.optimizer.variables)}
    return found | {f"history {key}": np.asarray(values) for key, values in history.history.items()}


def build(case):
    """Make a case's model, the same at each call."""
    keras.utils.set_random_seed(0)
    return case.model()


@functools.cache
def reference(name, policy, seed=None):
    """Train the plain model, once for each case, policy and order of rows."""
    use(policy)
    return train(build(CASES[name]), CASES[name], seed)


def differences(got, want):
    """Return by name how far two results lie apart, relative to the larger of 1 and the wanted number."""
    assert sorted(got) == sorted(want)
    for name, value in want.items():
        assert got[name].shape == value.shape, name
    return {
        name: float(np.max(np.abs(got[name].astype("float64") - value) / np.maximum(1.0, np.abs(value)), initial=0.0))
        for name, value in want.items()
    }
