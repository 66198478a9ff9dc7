"""The passes of a replica as one function: traced once for all, and by each replica where they are not the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.engine.shared_passes import SharedPasses
from tests.assertions import doubles
from tests.choice import all_but
from tests.pairs import pair, seeded

L = keras.layers
X = np.random.default_rng(0).normal(size=(8, 6))


@pytest.fixture(autouse=True)
def _doubles():
    doubles()


@keras.saving.register_keras_serializable()
class Noting(L.Layer):
    """Counts the calls by which it is traced, and does something in them."""

    calls = 0

    def __init__(self, act=None):
        super().__init__()
        self.act = act
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, inputs):
        Noting.calls += 1
        return inputs if self.act is None else self.act(self, inputs)


def traces(run):
    """How often a layer has been called by what `run` does."""
    Noting.calls = 0
    run()
    return Noting.calls


def net(*layers):
    return lambda: keras.Sequential([keras.Input((6,)), L.Dense(5, activation="tanh"), *(make() for make in layers)])


def fit(model, rows=8, **options):
    data = {"x": X[:rows], "y": np.ones((rows, *model.output_shape[1:])), "verbose": 0, "batch_size": 8} | options
    return model.fit(**data).history


def wrapped(build, replicas=2, optimizer="adam"):
    model = kparallel.wrap(seeded(build), replicas=replicas, check="off")
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def test_a_layer_is_traced_once_for_all_replicas_and_once_more_for_each_size_of_a_share():
    one, four = (wrapped(net(Noting), replicas) for replicas in (1, 4))
    once = traces(lambda: fit(one))
    assert traces(lambda: fit(four)) == once
    # 6 rows are shares of 2, 2, 1 and 1.
    assert traces(lambda: fit(four, 6)) == 2 * traces(lambda: fit(one, 6))


def with_loss(layer, x):
    layer.add_loss(keras.ops.sum(x**2))
    return x


def with_seed(layer, x):
    return x + keras.random.normal((1, 5), seed=layer.seed_generator)


MODELS = {
    "dropout": net(lambda: L.Dropout(0.4, seed=3)),
    "seeds": net(lambda: Noting(with_seed)),
    "moving statistics": net(L.BatchNormalization),
    "added losses": net(lambda: Noting(with_loss), lambda: L.Dense(2, kernel_regularizer="l2")),
    "a loop": net(lambda: L.Reshape((5, 1)), lambda: L.GRU(3)),
    "slices": lambda: keras.Sequential([keras.Input((6,), dtype="int32"), L.Embedding(4, 3), L.Flatten()]),
    "positions": lambda: keras.Sequential([keras.Input((6,)), Positions(), L.Dense(1)]),
}


class Positions(L.Layer):
    """Adds what it looks up for each place of a row: the same indices for all rows."""

    def build(self, shape):
        self.table = L.Embedding(shape[-1], 1)
        self.table.build(None)

    def call(self, inputs):
        return inputs + keras.ops.reshape(self.table(keras.ops.arange(inputs.shape[-1])), (1, -1))


@pytest.mark.parametrize("name", all_but(MODELS, "dropout", "a loop", "slices", "added losses"))
def test_the_shared_trace_is_each_replicas_own(name, monkeypatch):
    """Masks, seeds, moving statistics, penalties and slices are those of a replica that traces for itself."""
    results, shared = [], []
    call = SharedPasses.__call__
    own = lambda self, replica, share: self._passes(replica, share)  # noqa: E731
    noted = lambda self, *arguments: (call(self, *arguments), shared.append(bool(self._traces)))[0]  # noqa: E731
    for run in (own, noted):
        monkeypatch.setattr(SharedPasses, "__call__", run)
        model = wrapped(MODELS[name])
        x = np.abs(X * 3).astype("int32") % 4 if name == "slices" else X
        losses = [fit(model, x=x)["loss"], fit(model, x=x[:5], y=np.ones((5, *model.output_shape[1:])))["loss"]]
        results.append([*losses, *model.get_weights(), *(v.numpy() for v in model.non_trainable_variables)])
    assert shared == [True] * len(shared) and len(shared) >= 4
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def drawn(_, x):
    return x + tf.random.normal((1, 5), dtype=x.dtype)


def on_a_device(_, x):
    with tf.device("CPU:1"):
        return x * 1.0


def by_replica(_, x):
    context = tf.distribute.get_replica_context()
    return x if context is None else x + tf.cast(context.replica_id_in_sync_group, x.dtype)


def checked(_, x):
    tf.debugging.assert_all_finite(x, "finite")
    return x


@pytest.mark.parametrize("act", [drawn, on_a_device, by_replica, checked])
def test_what_belongs_to_a_replica_is_traced_by_each(act):
    """Numbers that TensorFlow draws, a device, the replica's number, an effect: no function of arguments alone."""
    one, two = (wrapped(net(lambda: Noting(act)), replicas) for replicas in (1, 2))
    assert traces(lambda: fit(two)) > traces(lambda: fit(one))


def test_a_loss_that_waits_for_the_other_replicas_is_each_ones_own():
    """With weights of rows the replicas agree on the denominator before the backward pass."""
    plain, model = pair(net(Noting), replicas=2)
    for each in (plain, model):
        each.compile("sgd", "mse")
        fit(each, sample_weight=np.arange(8.0))
    for one, other in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_an_error_of_a_layer_is_the_users():
    armed = []

    def failing(_, x):
        if armed:
            raise ArithmeticError("of the user's own")
        return x

    model = wrapped(net(lambda: Noting(failing)))
    fit(model)
    armed.append(True)
    with pytest.raises(ArithmeticError, match="of the user's own"):
        fit(model, 6)
