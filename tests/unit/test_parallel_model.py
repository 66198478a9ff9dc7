"""A wrapped model shows itself as the plain one that it was."""

import keras
import pytest

import kparallel
from kparallel.errors import ModelError
from kparallel.model.parallel_model import ParallelModel, unwrap


class Named(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)


def test_it_is_of_both_classes_and_shows_the_users():
    model = kparallel.wrap(Named(), devices=["CPU:0"])
    assert isinstance(model, ParallelModel) and isinstance(model, Named)
    assert model.__class__ is Named and type(model) is not Named
    assert {"plan", "unwrap"} <= set(dir(model))
    assert model.unwrap() is model and type(model) is Named and not isinstance(model, ParallelModel)


def test_only_a_wrapped_model_at_rest_is_unwrapped():
    with pytest.raises(ModelError, match="a model that kparallel.wrap returned, received Named"):
        unwrap(Named())
    model = kparallel.wrap(Named(), devices=["CPU:0"])
    with model._kparallel.whole_batches(), pytest.raises(ModelError, match="a model that is not at work"):
        unwrap(model)
    unwrap(model)


def test_xla_is_left_to_the_step_and_remembered():
    model = kparallel.wrap(Named(), devices=["CPU:0"])
    model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile is False and model._kparallel.jit is True
    assert model.get_compile_config()["jit_compile"] is True
    model.compile("sgd", "mse")
    assert model._kparallel.jit is None
