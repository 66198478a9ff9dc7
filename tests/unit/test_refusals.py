"""What `wrap`, `compile` and `fit` refuse: each message says what was expected, what came, and the way out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors

L = keras.layers


def line():
    return keras.Sequential([keras.Input((3,)), L.Dense(1)], name="line")


class OwnLoop(keras.Model):
    def make_train_function(self, force=False):
        return lambda iterator: {}


def assigned(hook, *, wrapped=False):
    """A model with a hook that was assigned to it, before or after it was wrapped."""
    model = kparallel.wrap(line()) if wrapped else line()
    model.compile("sgd", "mse")
    setattr(model, hook, lambda *arguments, **named: {})
    return model


def legacy():
    return type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential", "fit": lambda self: None})()


def sharing_elsewhere():
    """Wrap a model that shares a layer with another one, wrapped for other devices."""
    first = kparallel.wrap(line(), devices=["CPU:0"])
    second = keras.Sequential([keras.Input((3,)), first.layers[0]])
    return kparallel.wrap(second, devices=["CPU:1"])


def stateful():
    layer = L.Dense(2)
    layer.stateful = True
    return keras.Sequential([keras.Input((3,), batch_size=2), layer])


# what is refused: (call, error, words that the message holds)
REFUSED = {
    "on other devices": (
        sharing_elsewhere,
        errors.ModelError,
        ["'line'", "kernel", "unwrap the other one first"],
    ),
    "unwrapped twice": (
        lambda: kparallel.unwrap(kparallel.wrap(line()).unwrap()),
        errors.ModelError,
        ["kparallel.wrap returned", "received Sequential"],
    ),
    "no model": (lambda: kparallel.wrap(3), errors.ModelError, ["keras.Model", "int"]),
    "a layer": (lambda: kparallel.wrap(L.Dense(2)), errors.ModelError, ["keras.Model", "Dense"]),
    "builder of nothing": (lambda: kparallel.wrap(lambda: None), errors.ModelError, ["builder", "NoneType"]),
    "legacy": (lambda: kparallel.wrap(legacy()), errors.ModelError, ["tf_keras", "Keras 3"]),
    "own make_train_function": (
        lambda: kparallel.wrap(OwnLoop()),
        errors.ModelError,
        ["OwnLoop overrides make_train_function", "train_step"],
    ),
    "assigned make_train_function": (
        lambda: kparallel.wrap(assigned("make_train_function")),
        errors.ModelError,
        ["overrides make_train_function"],
    ),
    "make_test_function assigned later": (
        lambda: assigned("make_test_function", wrapped=True).fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0),
        errors.ModelError,
        ["Sequential overrides make_test_function"],
    ),
    "stateful": (lambda: kparallel.wrap(stateful()), errors.ModelError, ["stateful=True", "recurrent", "Set it False"]),
    "unknown device": (
        lambda: kparallel.wrap(line(), devices=["GPU:7"]),
        errors.DeviceError,
        ["'GPU:7'", "CPU:0", "virtual_devices"],
    ),
    "no device name": (lambda: kparallel.wrap(line(), devices=["cpu"]), errors.DeviceError, ["'cpu'", "CPU:1"]),
    "a string": (lambda: kparallel.wrap(line(), devices="CPU:0"), errors.DeviceError, ["list", "['CPU:0']"]),
    "no devices": (lambda: kparallel.wrap(line(), devices=[]), (errors.DeviceError, errors.PlanError), ["received"]),
    "repeated device": (
        lambda: kparallel.wrap(line(), devices=["CPU:0", "cpu:0"]),
        errors.DeviceError,
        ["CPU:0", "more than once"],
    ),
    "mixed devices": (lambda: kparallel.Mesh((("CPU:0",), ("GPU:0",))), errors.DeviceError, ["one kind", "CPU", "GPU"]),
    "too many replicas": (
        lambda: kparallel.wrap(line(), replicas=5),
        errors.PlanError,
        ["1 to 4 replicas", "received 5", "virtual_devices"],
    ),
    "no replicas": (lambda: kparallel.wrap(line(), replicas=0), errors.PlanError, ["at least 1", "received 0"]),
    "true replicas": (lambda: kparallel.wrap(line(), replicas=True), errors.PlanError, ["whole number", "True"]),
    "a stage by name": (lambda: kparallel.wrap(line(), stages="dense"), errors.PlanError, ["list of lists", "'dense'"]),
    "a schedule's number": (lambda: kparallel.wrap(line(), schedule=3), errors.PlanError, ["'1f1b'", "received 3"]),
    "a number of devices": (lambda: kparallel.wrap(line(), devices=3), errors.DeviceError, ["'CPU:0'", "received 3"]),
    "devices in words": (lambda: kparallel.virtual_devices("2"), errors.DeviceError, ["whole number", "'2'"]),
    "late devices": (lambda: kparallel.virtual_devices(5), errors.DeviceError, ["4 CPU device", "first thing"]),
    "no virtual devices": (lambda: kparallel.virtual_devices(0), errors.DeviceError, ["at least one", "0"]),
    "another model's plan": (
        lambda: kparallel.wrap(keras.Sequential([keras.Input((2,)), L.Dense(5)]), kparallel.plan(line())),
        errors.PlanError,
        ["'line'", "kparallel.plan(model)"],
    ),
    "no plan": (lambda: kparallel.wrap(line(), 2), errors.PlanError, ["kparallel.plan", "received 2", "replicas=2"]),
    "plan and replicas": (
        lambda: kparallel.wrap(line(), kparallel.plan(line()), replicas=2),
        errors.PlanError,
        ["either a plan"],
    ),
    "loss_reduction": (
        lambda: kparallel.wrap(line(), loss_reduction="max"),
        errors.PlanError,
        ["'mean', 'sum' or 'global'", "'max'"],
    ),
}


@pytest.mark.filterwarnings("ignore:Model .* had a build config")
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name):
    call, error, words = REFUSED[name]
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_wrapping_inside_a_strategys_scope_is_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope(), pytest.raises(errors.ModelError, match="outside"):
        kparallel.wrap(line())


def test_a_dataset_of_another_strategy_is_refused():
    wrapped = kparallel.wrap(line(), replicas=2)
    wrapped.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices((np.ones((4, 3)), np.ones((4, 1)))).batch(4)
    other = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).experimental_distribute_dataset(data)
    for call in (wrapped.fit, wrapped.evaluate, wrapped.predict):
        with pytest.raises(errors.DataError, match="wrapped.distribute_strategy"):
            call(other)
    with pytest.raises(errors.DataError, match="wrapped.distribute_strategy"):
        wrapped.fit(data, validation_data=other)
