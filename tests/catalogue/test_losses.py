"""The law over every public loss of Keras: each has an output of one model, with weights of its own."""

import keras
import numpy as np
import pytest

from tests.catalogue.deviations import LOSSES
from tests.catalogue.heads import functions, head, inputs, target, weights
from tests.catalogue.measure import PLANS, beyond, trained
from tests.catalogue.public import public
from tests.equality.tolerances import FLOAT32, FLOAT64

L, J = keras.layers, keras.losses
KINDS = {
    "CTC": "sequence",
    "CategoricalGeneralizedCrossEntropy": "labels",
    "Circle": "labels",
    "SparseCategoricalCrossentropy": "labels",
    "circle": "labels",
    "ctc": "sequence",
    "sparse_categorical_crossentropy": "labels",
}


# TensorFlow computes these in float32.
SINGLE = {"CTC", "ctc"}


def losses(form):
    """Return every loss by name: the name of a function, or an object of a class."""
    if form == "function":
        return {name: name for name in functions(J)}
    found = {}
    for name in public(J, J.Loss):
        try:
            found[name] = getattr(J, name)()
        except Exception as error:
            pytest.fail(f"keras.losses.{name} cannot be made without arguments; say how: {error}")
    return found


def model_of(chosen):
    """Make and compile a model with an output for each loss, with weights of its own."""
    features = keras.Input((4,))
    outputs = {name: head(KINDS.get(name, "probabilities"), features, name) for name in chosen}
    model = keras.Model(features, outputs)
    model.compile(keras.optimizers.SGD(0.01), chosen, jit_compile=False)
    return model


def different(names, form, weighted, limit):
    """Train a model with some losses, plain and wrapped, and return by entry what differs by more than the limit."""
    y = {name: target(KINDS.get(name, "probabilities")) for name in names}
    weight = {name: weights() for name in names} if weighted else None

    def make():
        return model_of({name: loss for name, loss in losses(form).items() if name in names})

    plain, wrapped = (trained(make, inputs(), y, plan, weight) for plan in (None, PLANS["replicas"]))
    assert all(np.isfinite(value).all() for value in plain.values())
    return beyond(wrapped, plain, limit)


@pytest.mark.parametrize("weighted", [False, pytest.param(True, marks=pytest.mark.full)], ids=["plain", "weighted"])
@pytest.mark.parametrize("form", ["class", pytest.param("function", marks=pytest.mark.full)])
def test_every_loss_equals_plain_keras(form, weighted):
    assert not different(losses(form).keys() - SINGLE - LOSSES.keys(), form, weighted, FLOAT64)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(SINGLE | LOSSES.keys()))
def test_a_loss_that_deviates_or_is_of_single_precision(name):
    form = "class" if name[0].isupper() else "function"
    far = different([name], form, False, FLOAT32 if name in SINGLE else FLOAT64)
    assert bool(far) == (name in LOSSES), far


def test_the_lists_name_losses_of_keras():
    assert {*public(J, J.Loss), *functions(J)} >= {*KINDS, *SINGLE, *LOSSES}
