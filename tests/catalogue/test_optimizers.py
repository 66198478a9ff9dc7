"""The law over every public optimizer of Keras."""

import keras
import numpy as np
import pytest

from tests.catalogue.deviations import OPTIMIZERS
from tests.catalogue.measure import ROWS, SHARDED, check, in_turn
from tests.catalogue.public import public

L, O = keras.layers, keras.optimizers  # noqa: E741
RATE = 0.01
CHOSEN = ["Ftrl", "Muon", "MultiOptimizer", "ScheduleFreeAdamW"]


def several():
    """Make an optimizer that leaves a layer's weights to one and all others to another."""
    return O.MultiOptimizer(O.OptimizerMap(O.Adam(RATE), {"first/.*": O.SGD(RATE, momentum=0.9)}))


# Those that take more than a learning rate.
RECIPES = {
    "LossScaleOptimizer": lambda: O.LossScaleOptimizer(O.Adam(RATE)),
    "MultiOptimizer": several,
}


def optimizer_of(name):
    return RECIPES[name]() if name in RECIPES else getattr(O, name)(RATE)


class Positions(L.Layer):
    """Adds a row of a table to each step, the same ones for every row of the batch."""

    def build(self, shape):
        self.table = L.Embedding(shape[1], shape[2])
        self.table.build(None)

    def call(self, inputs):
        return inputs + self.table(keras.ops.arange(inputs.shape[1]))


def model_of(name, positions):
    """Make and compile a model of tokens, whose embeddings' gradients are slices."""
    tokens = keras.Input((6,), dtype="int32")
    embedded = L.Embedding(5, 4, name="tokens")(tokens)
    if positions:
        embedded = Positions(name="positions")(embedded)
    hidden = L.Dense(3, activation="tanh", name="first")(L.Flatten()(embedded))
    model = keras.Model(tokens, L.Dense(2, name="last")(hidden))
    model.compile(optimizer_of(name), "mse", jit_compile=False)
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 5, size=(ROWS, 6)), rng.normal(size=(ROWS, 2))


@pytest.mark.parametrize(("name", "plan"), in_turn(public(O, O.Optimizer), CHOSEN, SHARDED))
def test_every_optimizer_updates_as_in_plain_keras(name, plan):
    check(lambda: model_of(name, positions=False), *data(), plan, OPTIMIZERS.get((name, plan)))


@pytest.mark.parametrize(("name", "plan"), in_turn(public(O, O.Optimizer), [], SHARDED))
def test_every_optimizer_takes_slices_that_all_rows_share_as_in_plain_keras(name, plan):
    check(lambda: model_of(name, positions=True), *data(), plan, OPTIMIZERS.get((f"{name} of positions", plan)))


def test_every_optimizer_can_be_made():
    """An optimizer that a release of Keras adds needs a recipe only if it takes more than a rate."""
    for name in public(O, O.Optimizer):
        try:
            optimizer_of(name)
        except Exception as error:
            pytest.fail(f"keras.optimizers.{name} needs a recipe in tests/catalogue/test_optimizers.py: {error}")
