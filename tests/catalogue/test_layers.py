"""The law over every public layer of Keras: in a small model, it trains as in plain Keras."""

import keras
import numpy as np
import pytest

from tests.catalogue.deviations import CHOSEN_IN_TRACING, LAYERS, OF_KNOWN_ROWS, RANDOM
from tests.catalogue.layers import RECIPES, Recipe
from tests.catalogue.measure import PLANS, ROWS, beyond, check, in_turn, trained
from tests.catalogue.public import public
from tests.choice import some
from tests.equality.tolerances import FLOAT32, FLOAT64

L = keras.layers
# One of each kind; `full` has the others.
CHOSEN = ["Attention", "BatchNormalization", "Conv2D", "Dropout", "Embedding", "LSTM", "RandomFlip", "StringLookup"]


def recipe_of(name):
    """Return how a layer is made; one without a recipe takes no arguments and a vector."""
    return RECIPES.get(name) or Recipe(getattr(L, name))


def model_of(recipe):
    """Make and compile a model in which a layer stands between trained ones."""
    inputs = [keras.Input(shape, dtype=recipe.dtype) for shape in recipe.shapes]
    fed = [L.Dense(each.shape[-1])(each) for each in inputs] if recipe.before else inputs
    outputs = keras.tree.flatten(recipe.call(recipe.make(), fed))
    flat = [L.Flatten()(keras.ops.cast(each, keras.config.floatx()) / recipe.scale) for each in outputs]
    joined = L.Concatenate()(flat) if len(flat) > 1 else flat[0]
    model = keras.Model(inputs, L.Dense(2)(L.Dense(3, activation="tanh")(joined)))
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    return model


def data_of(recipe):
    """Draw the rows that a layer's model is trained on."""
    rng = np.random.default_rng(0)
    x = [recipe.draw(rng, (ROWS, *shape)) for shape in recipe.shapes]
    return x if len(x) > 1 else x[0], rng.normal(size=(ROWS, 2))


@pytest.mark.parametrize(("name", "plan"), in_turn(public(L, L.Layer), CHOSEN))
def test_every_layer_trains_as_in_plain_keras(name, plan):
    recipe = recipe_of(name)
    check(lambda: model_of(recipe), *data_of(recipe), plan, LAYERS.get((name, plan)), recipe.policy)


def test_every_layer_can_be_made():
    """A layer that a release of Keras adds needs a recipe only if it takes arguments, or no vector."""
    keras.config.set_floatx("float64")
    for name in public(L, L.Layer):
        if name not in RECIPES:
            try:
                model_of(recipe_of(name))
            except Exception as error:
                pytest.fail(f"keras.layers.{name} needs a recipe in tests/catalogue/layers.py: {error}")


def test_the_lists_name_layers_of_keras():
    names = set(public(L, L.Layer))
    assert names >= {*RECIPES, *CHOSEN, *RANDOM, *(name for name, _ in LAYERS)}


def arm(name, plan):
    recipe = recipe_of(name)
    return trained(lambda: model_of(recipe), *data_of(recipe), plan, policy=recipe.policy)


ALONE = [name for name in RANDOM if name not in CHOSEN_IN_TRACING and name not in OF_KNOWN_ROWS]


@pytest.mark.parametrize("name", some(ALONE, *(name for name in ALONE if name in CHOSEN)))
def test_a_random_layer_equals_plain_keras_on_one_replica(name):
    """One replica draws what plain Keras draws."""
    plain, wrapped = (arm(name, plan) for plan in (None, {"replicas": 1}))
    far = beyond(wrapped, plain, FLOAT64 if recipe_of(name).policy == "float64" else FLOAT32)
    assert not far


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in RANDOM if LAYERS[name, "replicas"].outcome != "refused"])
def test_a_random_layer_repeats_with_the_seed_on_two_replicas(name):
    first, second = (arm(name, PLANS["replicas"]) for _ in range(2))
    for entry, value in first.items():
        np.testing.assert_array_equal(second[entry], value, err_msg=entry)
