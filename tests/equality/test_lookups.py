"""Lookups whose slices are told apart by where their indices come from: what an optimizer sees is one device's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from kparallel.engine.probe import Probe
from tests.equality.measure import use
from tests.equality.tolerances import FLOAT64

L, ops = keras.layers, keras.ops
DATA_PARALLEL = {"replicas": 2}
MICROBATCHES = {"replicas": 2, "stages": 1, "microbatches": 2}


@pytest.fixture(autouse=True)
def _in_float64():
    use("float64")


def adam():
    return keras.optimizers.Adam(0.01)


def tokens(rows=10, length=5):
    rng = np.random.default_rng(0)
    return rng.integers(0, 7, (rows, length)).astype("int32"), rng.normal(size=(rows, 1))


def in_one_layer(make, length=5):
    """Return a model of one layer, which gives [rows, dim], and a head."""
    inputs = keras.Input((length,), dtype="int32")
    return keras.Model(inputs, L.Dense(1)(make()(inputs)))


def fitted(model, data, optimizer=adam, **arguments):
    model.compile(optimizer(), "mse", **arguments)
    history = model.fit(data, epochs=2, verbose=0).history
    return [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables), np.asarray(history["loss"])]


def assert_equal_to_plain(build, data, plan, optimizer=adam, **arguments):
    found = []
    for wrap in (lambda model: model, lambda model: kparallel.wrap(model, **plan)):
        keras.utils.set_random_seed(0)
        found.append(fitted(wrap(build()), data(), optimizer, **arguments))
    for got, want in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=FLOAT64)


def batches():
    return tf.data.Dataset.from_tensor_slices(tokens()).batch(4)


def lengths():
    """Batches padded to lengths of their own, of as many rows each, and one of a single row."""
    parts = [tokens(rows, length) for rows, length in ((4, 5), (4, 3), (4, 6), (1, 2))]
    signature = tf.TensorSpec((None, None), "int32"), tf.TensorSpec((None, 1), "float64")
    dataset = tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(parts)))


@keras.saving.register_keras_serializable("kparallel_tests")
class Table(L.Layer):
    """Looks a row's tokens up in a table; `find` says what else."""

    def build(self, shape):
        self.table = self.add_weight(shape=(7, 3), initializer="normal")
        self.built = True

    def compute_output_shape(self, shape):
        return shape[0], 3

    def call(self, x, multiply=False):
        if multiply:
            return ops.matmul(ops.matmul(x, ops.transpose(self.table)), self.table)
        return ops.mean(ops.take(self.table, x, axis=0), axis=1) + self.find(x)

    def find(self, x):
        return 0.0


class OfLength(Table):
    def find(self, x):
        return ops.mean(ops.take(self.table, ops.arange(ops.shape(x)[1]), axis=0), axis=0)


class MadeEarly(Table):
    """Its indices are a tensor from outside of the step."""

    def build(self, shape):
        super().build(shape)
        self.ids = tf.constant([[1, 2], [0, 1]])

    def find(self, x):
        return ops.mean(ops.take(self.table, self.ids, axis=0), axis=(0, 1))


class InFunctions(Table):
    def find(self, x):
        table = tf.convert_to_tensor(self.table)
        return tf.reduce_mean(inner(table, tf.range(4)), axis=0) + outer(table, x[:, 0])


@tf.function(autograph=False)
def inner(table, ids):
    return tf.gather(table, ids)


@tf.function(autograph=False)
def outer(table, ids):
    return tf.reduce_mean(inner(table, tf.range(3)), axis=0) + inner(table, ids)


class Counted(Table):
    """Its index is a state that every step changes."""

    def build(self, shape):
        super().build(shape)
        self.step = self.add_weight(shape=(1,), dtype="int32", trainable=False, initializer="zeros")

    def find(self, x):
        self.step.assign(self.step + 1)
        return ops.take(self.table, self.step % 7, axis=0)[0]


class Once(Table):
    """Looks each token of the batch up once."""

    def call(self, x):
        ids, places = tf.unique(tf.reshape(x, [-1]))
        return ops.mean(tf.reshape(tf.gather(tf.gather(self.table, ids), places), [-1, 5, 3]), axis=1)


class OnceElsewhere(Once):
    """The same by indices that two tokens may share."""

    def call(self, x):
        ids, places = tf.unique(tf.reshape(x, [-1]))
        return ops.mean(tf.reshape(tf.gather(tf.gather(self.table, ids // 2), places), [-1, 5, 3]), axis=1)


class Chosen(Table):
    """Looks up as many tokens as are large."""

    def find(self, x):
        large = tf.gather(self.table, tf.boolean_mask(x, x > 2))
        return tf.math.unsorted_segment_sum(large, tf.where(x > 2)[:, 0], tf.shape(x)[0])


class OneOfTwo(Table):
    def find(self, x):
        first = lambda: tf.reduce_mean(tf.gather(self.table, tf.range(4)), axis=0)  # noqa: E731
        return tf.cond(tf.reduce_sum(self.table) > 0, first, lambda: 2 * first())


LAYERS = [OfLength, MadeEarly, InFunctions, Once, Chosen, OneOfTwo]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_lookup_equals_one_device(layer):
    assert_equal_to_plain(lambda: in_one_layer(layer), batches, MICROBATCHES)


def test_a_lookup_by_changing_state_equals_one_device():
    assert_equal_to_plain(lambda: in_one_layer(Counted), batches, DATA_PARALLEL)


def test_batches_of_different_lengths():
    assert_equal_to_plain(lambda: in_one_layer(TwoTables, None), lengths, MICROBATCHES)


def test_one_table_and_batches_of_different_lengths():
    """A function keeps to itself how many slices each lookup gave: a stage with microbatches is one."""
    assert_equal_to_plain(lambda: in_one_layer(OfLength, None), lengths, DATA_PARALLEL)
    wrapped = kparallel.wrap(in_one_layer(OfLength, None), **MICROBATCHES)
    with pytest.raises(errors.ModelError, match=r"of_length.*: how many slices each gives cannot be told"):
        fitted(wrapped, lengths())


def test_what_cannot_be_told_is_refused_by_name():
    wrapped = kparallel.wrap(in_one_layer(OnceElsewhere), **DATA_PARALLEL)
    with pytest.raises(errors.ModelError, match=r"once_elsewhere.*whether more rows give more slices"):
        fitted(wrapped, batches())
    assert_equal_to_plain(lambda: in_one_layer(OnceElsewhere), batches, DATA_PARALLEL, keras.optimizers.SGD)


def test_lookups_of_tokens_need_no_other_trace(monkeypatch):
    monkeypatch.delattr(Probe, "sources")
    assert_equal_to_plain(lambda: in_one_layer(Table), batches, DATA_PARALLEL)
    assert_equal_to_plain(lambda: in_one_layer(MadeEarly), batches, DATA_PARALLEL, keras.optimizers.SGD)
    with pytest.raises(AttributeError, match="sources"):
        fitted(kparallel.wrap(in_one_layer(MadeEarly), **DATA_PARALLEL), batches())


def normalized():
    inputs = keras.Input((5,), dtype="int32")
    return keras.Model(inputs, L.Dense(1)(L.BatchNormalization(synchronized=True)(MadeEarly()(inputs))))


def tied(again):
    """A table in the first stage, and once more in the last: looked up, or multiplied with."""

    def build():
        inputs = keras.Input((5,), dtype="int32")
        table = MadeEarly()
        hidden = L.Dense(3, activation="tanh")(L.Dense(3, activation="tanh")(table(inputs)))
        return keras.Model(inputs, L.Dense(1)(hidden + again(table, inputs, hidden)))

    return build


def test_lookups_beside_synchronized_batch_norm():
    assert_equal_to_plain(normalized, batches, DATA_PARALLEL)


@pytest.mark.parametrize("sliced", [True, False])
def test_tied_tables(sliced):
    def again(table, inputs, hidden):
        return table(inputs) if sliced else table(hidden, multiply=True)

    assert_equal_to_plain(tied(again), batches, {"replicas": 2, "stages": 2, "microbatches": 2})


class TwoTables(OfLength):
    """Has one for the tokens and one for the positions."""

    def build(self, shape):
        super().build(shape)
        self.positions = self.add_weight(shape=(7, 3), initializer="normal")

    def find(self, x):
        return ops.mean(ops.take(self.positions, ops.arange(ops.shape(x)[1]), axis=0), axis=0)
