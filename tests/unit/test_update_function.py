"""The update as one function: traced once for all replicas and sizes, and as each replica's own where it has to be."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.compat.functions import captured
from kparallel.engine.shared_function import SharedFunction
from kparallel.engine.update_function import UpdateFunction
from tests.pairs import pair

X = np.random.default_rng(0).normal(size=(12, 3))


def dense():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)])


def lookup():
    return keras.Sequential([keras.Input((2,)), keras.layers.Embedding(5, 3), keras.layers.Flatten()])


def train(models, optimizer, between=lambda model: None, x=X, y=X):
    """Train on 8 rows and then on 5, and return the largest difference of the models' weights."""
    for model in models:
        model.compile(optimizer(), "mse")
        model.fit(x[:8], y[:8], batch_size=8, verbose=0)
        between(model)
        model.fit(x[:5], y[:5], batch_size=5, verbose=0)
    plain, wrapped = (model.get_weights() for model in models)
    return max(np.abs(a - b).max() for a, b in zip(plain, wrapped, strict=True))


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.fixture
def steps(monkeypatch):
    """The weights for which Adam's update was traced in a replica."""
    traced, step = [], keras.optimizers.Adam.update_step

    def update_step(self, gradient, variable, rate):
        if tf.distribute.has_strategy():
            traced.append(variable.name)
        return step(self, gradient, variable, rate)

    monkeypatch.setattr(keras.optimizers.Adam, "update_step", update_step)
    return traced


@pytest.fixture
def shared(monkeypatch):
    """Whether each update was the shared function's, by the order in which they were traced."""
    found, apply = [], UpdateFunction.apply
    monkeypatch.setattr(UpdateFunction, "apply", lambda self, *args: found.append(apply(self, *args)) or found[-1])
    return found


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.full), 3])
def test_an_update_is_traced_once_for_all_replicas_and_sizes(replicas, steps, float64):
    models = pair(dense, replicas=replicas)
    for model in models:
        model.compile(keras.optimizers.Adam(0.1), "mse")
        for rows in (8, 5, 8):
            model.fit(X[:rows], X[:rows], batch_size=rows, verbose=0)
    assert len(steps) == len(models[1].weights)
    plain, wrapped = (model.get_weights() for model in models)
    np.testing.assert_allclose(np.concatenate([*map(np.ravel, wrapped)]), np.concatenate([*map(np.ravel, plain)]))


class Own(keras.Model):
    """Has a step of its own."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=data[1], y_pred=self(data[0], training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


def own():
    model = dense()
    return Own(model.inputs, model.outputs)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        pytest.param(dense, {"stages": 2, "microbatches": 2}, marks=pytest.mark.full),
        pytest.param(dense, {"shard": "optimizer"}, marks=pytest.mark.full),
        (dense, {"shard": "optimizer", "stages": 2, "microbatches": 2}),
        pytest.param(own, {"check": "off"}, marks=pytest.mark.full),
        (own, {"check": "off", "shard": "optimizer"}),
    ],
)
def test_stages_shards_and_own_steps_trace_a_weights_update_once_for_all_sizes(build, options, monkeypatch, float64):
    traced, step = [], keras.optimizers.Adam.update_step
    note = lambda self, *arguments: (traced.append(arguments[1].name), step(self, *arguments))  # noqa: E731
    monkeypatch.setattr(keras.optimizers.Adam, "update_step", note)
    models = pair(build, replicas=2, **options)
    for model in models:
        # The norm of all gradients and the averages stay outside of the functions of devices.
        model.compile(keras.optimizers.Adam(0.1, global_clipnorm=0.1, use_ema=True), "mse")
        traced.clear()
        for rows in (8, 5, 8):
            model.fit(X[:rows], X[:rows], batch_size=rows, verbose=0)
    assert len(traced) == len(model.trainable_weights)
    plain, wrapped = (np.concatenate([*map(np.ravel, model.get_weights())]) for model in models)
    np.testing.assert_allclose(wrapped, plain, rtol=0, atol=1e-12)


def test_the_slices_of_any_number_of_lookups_are_one_functions(steps, shared, float64):
    rows = np.random.default_rng(0).integers(0, 5, (8, 2))
    models = pair(lookup, replicas=2)
    assert train(models, lambda: keras.optimizers.Adam(0.1), x=rows, y=np.ones((8, 6))) < 1e-12
    assert shared == [True] * 4 and len(steps) == 1


def test_each_replica_updates_its_own_copies_on_its_own_device(monkeypatch):
    places, call = [], SharedFunction.__call__

    def recorded(self, *arguments):
        found = call(self, *arguments)
        operation = tf.compat.v1.get_default_graph().get_operations()[-1]
        if operation.type == "StatefulPartitionedCall":  # The passes are a function without effects.
            handles = [captured(each) for each in operation.inputs if each.dtype == tf.resource]
            places.append((operation.type, operation.device, {handle.device for handle in handles}))
        return found

    monkeypatch.setattr(SharedFunction, "__call__", recorded)
    _, wrapped = pair(dense, replicas=2)
    wrapped.compile("adam", "mse")
    wrapped.fit(X, X, batch_size=12, verbose=0)
    device = "/job:localhost/replica:0/task:0/device:CPU:{}".format
    assert places == [("StatefulPartitionedCall", device(r), {device(r)}) for r in range(2)]


def test_an_attribute_that_changes_makes_another_function(steps, float64):
    def between(model):
        steps.clear()
        model.optimizer.clipnorm = 1e-3

    assert train(pair(dense, replicas=2), lambda: keras.optimizers.Adam(0.1), between) < 1e-12
    assert len(steps) == 4


def test_weights_that_are_frozen_between_two_sizes_stay(float64):
    def between(model):
        model.layers[0].trainable = False
        model.compile(model.optimizer, "mse")

    assert train(pair(dense, replicas=2), lambda: keras.optimizers.Adam(0.1), between) < 1e-12


class OnesOwn(keras.optimizers.SGD):
    """Does something in an update beside it."""

    def __init__(self, act=lambda optimizer: None):
        super().__init__(0.1)
        self.act = act
        self.seen = 0

    def update_step(self, gradient, variable, learning_rate):
        self.act(self)
        super().update_step(gradient, variable, learning_rate)


def count(optimizer):
    optimizer.seen += 1


def name_a_device(optimizer):
    with tf.device("CPU:0"):
        tf.debugging.assert_non_negative(tf.cast(optimizer.iterations, "float32") + tf.ones(()))


def all_reduce(optimizer):
    context = tf.distribute.get_replica_context()
    if context is not None:  # Plain Keras has none here.
        context.all_reduce("MEAN", tf.cast(optimizer.iterations, "float32"))


@pytest.mark.parametrize("act", [count, name_a_device, all_reduce])
def test_what_belongs_to_a_replica_is_traced_for_each(act, shared, float64):
    """A number that each trace changes, a device, a collective: none is the same on another replica."""
    assert train(pair(dense, replicas=2), lambda: OnesOwn(act)) < 1e-12
    assert shared == [False] * 4


def test_an_optimizer_of_ones_own_is_traced_for_each_size(shared, float64):
    seen = []
    assert train(pair(dense, replicas=2), lambda: OnesOwn(seen.append)) < 1e-12
    assert shared == [True] * 4 and len(seen) == 16  # Twice four weights by each model, as plain Keras.


def test_a_rate_of_ones_own_is_read_for_each_size(float64):
    rates = {}

    def optimizer():
        rates["now"] = 0.1
        return keras.optimizers.SGD(lambda: rates["now"])

    assert train(pair(dense, replicas=2), optimizer, lambda model: rates.update(now=0.01)) < 1e-12


class Scaled(keras.layers.Layer):
    """Has a scalar weight."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return x * self.scale


def test_a_scalar_weight_is_updated_by_a_program(monkeypatch, float64):
    """Its slots are scalars too, but no counters."""
    monkeypatch.setattr("kparallel.engine.optimizer_update.LARGE", 4)
    monkeypatch.setattr("kparallel.engine.optimizer_update.LARGE_TENSOR", 1)
    traced = []
    shared, init = SharedFunction, SharedFunction.__init__

    def noted(self, function):
        init(self, function)
        traced.extend(each for each in function.captured_inputs[:1])  # The passes capture nothing.

    monkeypatch.setattr(shared, "__init__", noted)
    models = pair(lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), Scaled()]), replicas=2)
    assert train(models, lambda: keras.optimizers.Adam(0.1)) < 1e-12
    assert len(traced) == 2  # Programs, each for both replicas and both sizes.
