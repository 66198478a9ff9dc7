"""Layers and losses of the user's own, in Keras's own step: whether parts of a batch do the same as the whole."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from kparallel.model.build import build_missing
from kparallel.model.first_batch import FirstBatch
from kparallel.ownstep.custom import own_code
from tests.choice import all_but
from tests.equality import models
from tests.equality.measure import use
from tests.ownstep.programs import FEATURES, mlp, regressed

L = keras.layers


class Own(L.Layer):
    """Does what a function of the user's own does."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def by_tensordot(x):
    """No reading of the code sees that rows are mixed: the product has as many of them as its first factor."""
    return tf.tensordot(tf.nn.softmax(tf.matmul(x, x, transpose_b=True)), x, 1)


def by_a_constant(x):
    return tf.reshape(tf.cumsum(tf.reshape(x, [2, -1]), 1), [-1, 8])


def like_batch_norm(x):
    return (x - tf.reduce_mean(x, 0)) / (1.0 + tf.math.reduce_std(x, 0))


def by_the_largest(x):
    """In parts of one size that have a row in common, the largest of all may be that of each."""
    return x / tf.reduce_max(tf.abs(x))


class Contrast(keras.losses.Loss):
    """Adds rows up in an operation that is trusted to keep them apart."""

    def call(self, y_true, y_pred):
        total = tf.math.segment_sum(y_pred, tf.zeros_like(y_pred[:, 0], tf.int32))
        return tf.reduce_sum((total - y_true) ** 2, 1)


class Centered(keras.Model):
    """Adds a penalty that no mean over its rows is."""

    def __init__(self):
        super().__init__()
        self.net = mlp(8, 1)

    def call(self, x):
        outputs = self.net(x)
        self.add_loss(tf.reduce_mean(outputs) ** 2)
        return outputs


class SparseRegularizer(keras.Regularizer):
    """Compares the mean activation of the batch with 0.1, as sparse autoencoders do."""

    def __call__(self, activations):
        return tf.reduce_sum((tf.reduce_mean(activations, 0) - 0.1) ** 2)


class Activation:
    """An activation that is an object, or one of its methods."""

    def __call__(self, x):
        return x

    def method(self, x):
        return x


class Replaced(L.Dense):
    """Keeps Keras's `call`, which may call what a subclass replaces."""


class Scored(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_sum((y - y_pred) ** 2) / 7.0


def of(function, loss="mse"):
    net = keras.Sequential([keras.Input((FEATURES,)), L.Dense(8, "tanh"), Own(function), L.Dense(1)])
    net.compile(keras.optimizers.Adam(0.01), loss)
    return net


def penalized():
    model = Centered()
    model.compile("adam", "mse")
    return model


def scored():
    inputs = keras.Input((FEATURES,))
    model = Scored(inputs, L.Dense(1)(inputs))
    model.compile("adam", "mse")
    return model


def sparse():
    hidden = L.Dense(4, activity_regularizer=SparseRegularizer(), name="sparse")
    model = keras.Sequential([keras.Input((FEATURES,)), hidden, L.Dense(1)])
    model.compile("adam", "mse")
    return model


def an_operation():
    inputs = keras.Input((FEATURES,))
    hidden = L.Dense(4)(inputs)
    model = keras.Model(inputs, L.Dense(1)(hidden - keras.ops.mean(hidden, axis=0, keepdims=True)))
    model.compile("adam", "mse")
    return model


FOUND = {
    "a product of rows": (lambda: of(by_tensordot), {}, "Own"),
    "a shape that is written": (lambda: of(by_a_constant), {}, "Own"),
    "statistics of the batch": (lambda: of(like_batch_norm), {}, "Own"),
    "a loss that compares rows": (lambda: of(tf.identity, Contrast()), {}, "Contrast"),
    "a penalty of the batch": (penalized, {}, "Centered"),
    "an activity regularizer of the batch": (sparse, {}, "sparse"),
    "a mean taken for a sum": (lambda: of(tf.identity, lambda y, p: tf.reduce_mean(p)), {"loss_reduction": "sum"}, ""),
    "an operation of Keras's": (an_operation, {}, "mean"),
    "in a pipeline": (lambda: of(like_batch_norm), {"replicas": 1, "stages": 2, "microbatches": 2}, "Own"),
}


def wrapped(make, options, policy="float64"):
    use(policy)
    return kparallel.wrap(make(), **{"replicas": 2} | options)


def looked(model, data):
    """Let the first batch be compared, and nothing be trained."""
    batch = keras.tree.map_structure(tf.convert_to_tensor, data)
    build_missing(model, model._kparallel, batch)
    check = FirstBatch(model, model._kparallel, "train_step")
    return check.compare(batch) if check.is_due(batch) else None


@pytest.mark.parametrize(
    "name", all_but(FOUND, "a shape that is written", "an operation of Keras's", "a mean taken for a sum")
)
def test_what_is_found_in_kerass_own_step(name):
    make, options, code = FOUND[name]
    model = wrapped(make, options)
    with pytest.raises(errors.ModelError) as caught:
        model.fit(**regressed(), batch_size=7, verbose=0)
    for word in ["5 rows whole and in 2 parts", "received the", code, "kparallel.gather", 'check="warn"']:
        assert word in str(caught.value), caught.value
    assert not model.optimizer.iterations.numpy()


def test_what_is_found_in_evaluation_and_prediction():
    data = regressed()
    model = wrapped(lambda: of(by_the_largest), {})
    with pytest.raises(errors.ModelError, match="to evaluate the same with 5 rows .*Own.*a test_step of your own"):
        model.evaluate(**data, batch_size=7, verbose=0)
    with pytest.raises(errors.ModelError, match="to predict the same with 5 rows .*received the result 'output 0'"):
        model.predict(data["x"], batch_size=7, verbose=0)
    model = wrapped(lambda: of(tf.identity, Contrast()), {})
    model.predict(data["x"], batch_size=7, verbose=0)
    with pytest.raises(errors.ModelError, match="received the result 'loss 0'.*Contrast"):
        model.evaluate(**data, batch_size=7, verbose=0)


def test_a_finding_is_a_warning_where_the_user_says_so():
    model = wrapped(lambda: of(like_batch_norm), {"check": "warn"})
    with pytest.warns(UserWarning, match="which differs by"):
        looked(model, tuple(regressed().values()))
    assert looked(wrapped(lambda: of(like_batch_norm), {"check": "off"}), tuple(regressed().values())) is None


def test_rows_by_themselves_are_no_finding():
    """Draws, BatchNormalization and state that follows the batches are none either."""

    class Noisy(L.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(1)
            self.largest = self.add_weight(shape=(), initializer="ones", trainable=False)

        def call(self, x, training=False):
            noise = keras.random.normal(tf.shape(x), dtype=x.dtype, seed=self.seed)
            outputs = (x + noise) / self.largest
            self.largest.assign(tf.maximum(self.largest, tf.reduce_max(tf.abs(x))))
            return outputs

    def make():
        net = [L.Dense(8, "tanh"), Noisy(), L.BatchNormalization(), L.Dropout(0.5), Noisy(), L.Dense(1)]
        model = keras.Sequential([keras.Input((FEATURES,)), *net])
        model.compile("adam", lambda y, p: tf.reduce_sum((y - p) ** 2))
        return model

    for policy, options in (("float32", {}), ("float64", {"replicas": 1, "stages": 2, "microbatches": 2})):
        model = wrapped(make, options, policy)
        before = [variable.numpy() for variable in model.variables]
        assert looked(model, tuple(part.astype(policy) for part in regressed().values())) is None
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)


def test_what_pythons_generators_draw_is_held_equal_and_put_back():
    def by_chance(x):
        return x * random.choice([1.0, 2.0, 3.0, 4.0]) * np.random.uniform(1.0, 2.0)

    model, data = wrapped(lambda: of(by_chance), {}), tuple(regressed().values())
    assert looked(model, data) is None
    before = random.getstate(), np.random.get_state()[1:3]
    FirstBatch(model, model._kparallel, "train_step").compare(keras.tree.map_structure(tf.convert_to_tensor, data))
    after = random.getstate(), np.random.get_state()[1:3]
    assert before[0] == after[0] and all(map(np.array_equal, before[1], after[1]))


def test_what_cannot_be_compared_is_said_after_the_step():
    def drawn(y, p):
        return tf.reduce_mean((y - p + keras.random.normal(tf.shape(p), dtype=p.dtype)) ** 2)

    warning = looked(wrapped(lambda: of(tf.identity, drawn), {}), tuple(regressed().values()))
    assert "drawn" in warning and "a loss draws random numbers" in warning and 'check="off"' in warning


def test_why_nothing_can_be_compared_is_said():
    def of_all_rows(x):
        if x.shape[0] not in (None, len(regressed()["x"])):
            raise KeyError("as many rows as the data")
        return x

    warning = looked(wrapped(lambda: of(of_all_rows), {}), tuple(regressed().values()))
    assert "do not run by themselves (KeyError: " in warning and "as many rows as the data" in warning


def test_layers_of_kerass_alone_are_not_compared():
    use("float64")
    assert own_code(models.convolution()) == own_code(models.lstm()) == []
    assert own_code(mlp(3, 1)) == []


@pytest.mark.parametrize(
    "layer",
    [
        L.Dense(2, functools.partial(tf.nn.softmax, axis=0), name="own"),
        L.Dense(2, Activation(), name="own"),
        L.Activation(Activation().method, name="own"),
        L.Lambda(functools.partial(tf.reverse, axis=[0]), name="own"),
        L.Dense(2, activity_regularizer=SparseRegularizer(), name="own"),
        Replaced(2, name="own"),
        L.Softmax(axis=0, name="own"),
        L.UnitNormalization(axis=-2, name="own"),
    ],
)
def test_code_of_ones_own_is_found_wherever_a_layer_calls_it(layer):
    model = keras.Sequential([keras.Input((FEATURES,)), layer])
    assert own_code(model) == ["Replaced" if isinstance(layer, Replaced) else "own"]


def test_what_no_rows_reach_is_not_compared():
    options = {"kernel_initializer": keras.initializers.Constant(0.5), "kernel_regularizer": SparseRegularizer()}
    layers = [L.Dense(2, "relu", kernel_constraint=keras.constraints.NonNeg(), **options), L.Softmax()]
    assert own_code(keras.Sequential([keras.Input((FEATURES,)), *layers])) == []
