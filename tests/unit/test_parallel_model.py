"""A wrapped model shows itself as the plain one that it was."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

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


class Failing(keras.callbacks.Callback):
    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.fail)

    def fail(self, *_, **__):
        raise ArithmeticError("It fails.")


def iterators():
    return [each for each in gc.get_objects() if type(each).__name__ in ("OwnedIterator", "DistributedIterator")]


@pytest.mark.parametrize("hook", ["on_train_end", "on_train_batch_end", "on_test_batch_end"])
def test_no_iterator_over_data_outlives_a_fit(hook, tmp_path):
    """Not even in a cycle of references, in which an error keeps the frames of `fit`; with a checkpoint or without."""
    model = kparallel.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), replicas=2)
    model.compile("sgd", "mse")
    x = np.ones((8, 2), "float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(4)
    gc.collect()
    gc.disable()
    try:
        before = set(map(id, iterators()))
        for more in ([], [kparallel.callbacks.Checkpoint(tmp_path)]):
            callbacks = [Failing(hook), *more]
            with pytest.raises(ArithmeticError) as caught:
                model.fit(data, validation_data=data, callbacks=callbacks, verbose=0)
            caught.value.itself = caught.value  # In a cycle, which the collector alone would end.
        model.evaluate(data, verbose=0)
        model.predict(x, verbose=0)
        assert not [each for each in iterators() if id(each) not in before]
    finally:
        gc.enable()
