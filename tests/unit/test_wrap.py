"""What a wrapped model is."""

import keras
import numpy as np
import pytest

import kparallel
from tests.assertions import assert_alike, assert_fit_alike, doubles, state
from tests.choice import some
from tests.pairs import pair, seeded

X, Y = np.random.default_rng(0).normal(size=(6, 3)), np.ones((6, 1))


def line():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="line")


def test_public_names_are_sorted_and_load():
    assert kparallel.__all__ == sorted(kparallel.__all__)
    for name in kparallel.__all__:
        assert getattr(kparallel, name) is not None


def compiled_line():
    model = line()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    model.fit(X, Y, verbose=0)
    return model


def test_the_model_itself_is_wrapped():
    """It is the same object of the same class, with the same layers and variables; so is what `unwrap` returns."""
    model = line()
    layers, variables = model.layers, model.variables
    wrapped = kparallel.wrap(model, replicas=2)
    assert wrapped is model
    assert isinstance(model, keras.Sequential) and isinstance(model, kparallel.ParallelModel)
    assert model.__class__ is keras.Sequential and type(model) is not keras.Sequential
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    trained = model.get_weights()
    assert model.unwrap() is model
    assert type(model) is keras.Sequential and not isinstance(model, kparallel.ParallelModel)
    assert not hasattr(model, "plan") and not hasattr(model, "unwrap")
    for now, before in ((model.layers, layers), (model.variables, variables)):
        assert all(one is other for one, other in zip(now, before, strict=True))
    for one, other in zip(model.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_compiled_model_keeps_its_optimizer_and_metrics():
    doubles()
    plain, model = seeded(compiled_line), seeded(compiled_line)
    optimizer, metrics, before = model.optimizer, model.metrics, state(model)
    wrapped = kparallel.wrap(model, replicas=2)
    assert wrapped.optimizer is optimizer and int(optimizer.iterations.numpy()) == 1
    assert all(one is other for one, other in zip(wrapped.metrics, metrics, strict=True))
    assert_alike(state(wrapped), before)
    for rate in (0.02, 0.005):
        for each in (plain.optimizer, optimizer):
            each.learning_rate = rate
        histories = [each.fit(X, Y, shuffle=False, verbose=0).history for each in (wrapped, plain)]
        assert_alike(*histories)
    assert_alike(state(wrapped), state(plain))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(line, id="built", marks=pytest.mark.full),
        pytest.param(lambda: WithLoss(name="with_loss"), id="unbuilt"),
    ],
)
def test_an_unwrapped_model_goes_on_and_is_wrapped_again(build):
    """Plain, wrapped, plain, wrapped for other devices, laid out anew: each time it goes on where it was."""
    doubles()
    plain, model = seeded(build), seeded(build)
    for each in (plain, model):
        each.compile("adam", "mse")
    stages = [{"replicas": 2}, None, {"replicas": 3}, {"replicas": 1, "devices": ["CPU:3"]}, {"replicas": 2}, None]
    for options in stages:
        if options is None:
            assert kparallel.unwrap(model) is model
        else:
            assert kparallel.wrap(model, **options) is model and model.plan.mesh.replicas == options["replicas"]
        assert isinstance(model, kparallel.ParallelModel) == (options is not None)
        histories = [each.fit(X, Y, batch_size=4, shuffle=False, verbose=0).history for each in (model, plain)]
        assert_alike(*histories)
        assert_alike(state(model), state(plain))
        assert_alike(model.predict(X, verbose=0), plain.predict(X, verbose=0))


def two_layers():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("when", "eagerly"),
    some(
        [(when, eagerly) for when in ("before", "after") for eagerly in (False, True)],
        ("before", True),
        ("after", False),
    ),
)
def test_an_optimizer_that_the_user_builds_is_kept(when, eagerly):
    """Its slots move with their weights, built before `wrap` or after, and its handles stay."""
    doubles()
    models = [seeded(two_layers), seeded(two_layers)]
    optimizers = [keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9) for _ in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        if when == "after" and model is models[1]:
            kparallel.wrap(model, replicas=2, stages=2, microbatches=2)
        optimizer.build(model.trainable_variables)
        if when == "before" and model is models[1]:
            kparallel.wrap(model, replicas=2, stages=2, microbatches=2)
        model.compile(optimizer, "mse", run_eagerly=eagerly)
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        optimizer.learning_rate = 0.05
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        assert model.optimizer is optimizer
    assert_alike(state(models[1]), state(models[0]))
    column = [v.device[-5:] for v in models[1].layers[0].kernel.value.values]
    assert column == ["CPU:0", "CPU:2"]
    slots = [v for v in optimizers[1].variables if "dense_kernel" in v.path]
    assert len(slots) == 3 and all([v.device[-5:] for v in slot.value.values] == column for slot in slots)


def test_a_builder_may_return_a_wrapped_model():
    doubles()
    plain, wrapped = pair(line, replicas=2)
    assert kparallel.wrap(lambda: wrapped, replicas=3) is wrapped and wrapped.plan.mesh.replicas == 3
    fit = {"x": X, "y": Y, "batch_size": 4, "epochs": 2}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: {"optimizer": "adam", "loss": "mse"})


def test_a_subclassed_model_keeps_its_compute_loss():
    wrapped, plain = kparallel.wrap(WithLoss(), replicas=2), WithLoss()
    x, y = np.arange(15.0).reshape(5, 3) / 10, np.ones((5, 1))
    for model in (wrapped, plain):
        model.compile("sgd")
        model.fit(x, y, batch_size=5, verbose=0)
    np.testing.assert_allclose(wrapped.get_weights()[0], plain.get_weights()[0], atol=1e-6)


@keras.saving.register_keras_serializable("tests")
class WithLoss(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, inputs):
        return self.dense(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 2)


def test_predictions_come_in_order():
    plain, wrapped = pair(line, replicas=2)
    x = np.random.default_rng(0).normal(size=(13, 3)).astype("float32")
    np.testing.assert_allclose(wrapped.predict(x, batch_size=8, verbose=0), plain.predict(x, verbose=0), atol=1e-6)
    assert wrapped.predict_on_batch(x[:4]).shape == (4, 1)


def test_wrapping_leaves_the_seeds_of_what_comes_after():
    def second(wrap):
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.5)])
        if wrap:
            model = kparallel.wrap(model, replicas=2)
            model.compile("adam", "mse")
        return line().get_weights()[0]

    np.testing.assert_array_equal(second(True), second(False))
