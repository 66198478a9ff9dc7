"""Models whose variables get their values one after another, each where its stage is, equal to those built at once."""

import keras
import numpy as np
import pytest

import kparallel
from kparallel.compat.variables import is_initialized, placed_value
from kparallel.compat.weightless import build_pending
from kparallel.model import layer_by_layer
from kparallel.model.layer_by_layer import build_model

L = keras.layers


@pytest.fixture
def several_machines(monkeypatch):
    """Build as where stages are on other machines, with the devices of this one."""
    monkeypatch.setattr(layer_by_layer, "has_several_machines", lambda: True)


def chain(initializer="glorot_uniform"):
    layers = [L.Dense(4, kernel_initializer=initializer), L.BatchNormalization(), L.Dropout(0.5), L.Dense(2)]
    return keras.Sequential([keras.Input((3,)), *layers])


def with_values():
    model = chain()
    model.set_weights([np.full(weight.shape, index, weight.dtype) for index, weight in enumerate(model.weights)])
    return model


def from_an_array():
    model = chain()
    model.extra = keras.Variable(np.arange(3.0))
    return model


def adapted():
    scale = L.Normalization()
    scale.adapt(np.arange(12.0).reshape(4, 3))
    return keras.Sequential([keras.Input((3,)), scale, L.Dense(2)])


@pytest.mark.parametrize("build", [chain, with_values, from_an_array, adapted])
def test_the_values_are_those_of_a_model_built_at_once(build, several_machines):
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    plain = build()
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    model = kparallel.wrap(build, replicas=1, stages=2, microbatches=1)
    assert [variable.path for variable in model.variables] == [variable.path for variable in plain.variables]
    for ours, theirs in zip(model.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_variable_is_placed_before_the_next_one_gets_its_value(several_machines):
    made, waiting = [], []

    def note(shape, dtype=None):
        waiting.append(
            [weight.path for weight in made[0].weights if is_initialized(weight) and placed_value(weight) is None]
        )
        return keras.ops.zeros(shape, dtype)

    def build():
        made.append(keras.Sequential([keras.Input((3,)), *(L.Dense(3, kernel_initializer=note) for _ in range(4))]))
        return made[-1]

    model = kparallel.wrap(build, replicas=1, stages=2, microbatches=1)
    assert made == [model] and waiting == [[]] * 4
    assert {weight.value.values[0].device[-1] for weight in model.weights} == {"0", "1"}


def test_layers_and_values_from_before_are_kept(several_machines):
    shared, counter = L.Dense(3), keras.Variable(0.0)

    def build():
        counter.assign(7.0)
        return keras.Sequential([keras.Input((3,)), shared, L.Dense(2)])

    model = kparallel.wrap(build, replicas=1, stages=2, microbatches=1)
    assert model.layers[0] is shared and float(counter.value) == 7.0
    assert model.predict(np.ones((2, 3)), verbose=0).shape == (2, 2)


def test_what_cannot_be_wrapped_leaves_no_layer_without_values(several_machines):
    shared = L.Dense(3)
    with pytest.raises(kparallel.errors.PlanError):
        kparallel.wrap(lambda: keras.Sequential([keras.Input((3,)), shared]), stages=99)
    assert shared.kernel.numpy().shape == (3, 3)


def test_on_one_machine_nothing_is_pending():
    model, pending = build_model(chain)
    assert not pending.variables and model.weights[0].numpy().shape == (3, 4)


def test_an_error_of_the_function_is_raised():
    with pytest.raises(ZeroDivisionError):
        build_pending(lambda: 1 / 0)
