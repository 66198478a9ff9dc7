"""Trains a program and returns what it came to."""

import numpy as np

import kparallel
from kparallel.model_variables import optimizers_of, variables_of
from tests.equality.measure import use
from tests.ownstep.programs import PROGRAMS
from tests.pairs import seeded

EPOCHS, BATCH = 2, 7


def train(model, data, **options):
    """Fit a model and return what it came to, by name."""
    history = model.fit(**data, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, **options).history
    return state(model) | {f"history {key}": np.asarray(values) for key, values in history.items()}


def state(model):
    """Return what a model and its optimizers hold; names of variables may differ between two builds."""
    found = {f"{index} {variable.name}": variable.numpy() for index, variable in enumerate(variables_of(model))}
    assert any("iteration" in name for name in found) or not optimizers_of(model)
    return found


def plain(name, **options):
    use("float64")
    return train(seeded(PROGRAMS[name].model), PROGRAMS[name].data(), **options)


def wrapped(name, replicas, shard="auto", **options):
    use("float64")
    model = kparallel.wrap(seeded(PROGRAMS[name].model), replicas=replicas, shard=shard, **PROGRAMS[name].options)
    return train(model, PROGRAMS[name].data(), **options)
