"""Lookups whose slices are told apart by where their indices come from: what an optimizer sees is one device's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from kparallel.engine.gather_probe import Probe
from tests.choice import some
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


class Joined(Table):
    """Looks up the same indices for all rows and one token of each row at once."""

    def find(self, x):
        found = ops.take(self.table, ops.concatenate([tf.constant([1, 1, 2]), x[:, 0]]), axis=0)
        return ops.sum(found[:3], axis=0) + found[3:]


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
        return ops.mean(tf.reshape(tf.gather(ops.take(self.table, ids, axis=0), places), [-1, 5, 3]), axis=1)


class OnceElsewhere(Once):
    """The same by indices that two tokens may share."""

    def call(self, x):
        ids, places = tf.unique(tf.reshape(x, [-1]))
        return ops.mean(tf.reshape(tf.gather(ops.take(self.table, ids // 2, axis=0), places), [-1, 5, 3]), axis=1)


class Chosen(Table):
    """Looks up as many tokens as are large."""

    def find(self, x):
        large = tf.gather(self.table, tf.boolean_mask(x, x > 2))
        return tf.math.unsorted_segment_sum(large, tf.where(x > 2)[:, 0], tf.shape(x)[0])


class Valid(Table):
    """Looks up the tokens before each row's first zero."""

    def find(self, x):
        valid = tf.sequence_mask(tf.argmin(x, axis=1), x.shape[1])
        found = tf.gather(self.table, tf.boolean_mask(x, valid))
        return tf.math.unsorted_segment_sum(found, tf.where(valid)[:, 0], tf.shape(x)[0])


class Shortened(Table):
    """Looks up as many positions as the longest row has tokens."""

    def find(self, x):
        longest = tf.reduce_max(tf.argmin(x, axis=1))
        return tf.reduce_sum(tf.gather(self.table, tf.range(5)[:longest]), axis=0)


class OneOfTwo(Table):
    def find(self, x):
        first = lambda: tf.reduce_mean(tf.gather(self.table, tf.range(4)), axis=0)  # noqa: E731
        return tf.cond(tf.reduce_sum(self.table) > 0, first, lambda: 2 * first())


LAYERS = [OfLength, MadeEarly, Joined, InFunctions, Once, Chosen, Valid, OneOfTwo]


@pytest.mark.parametrize("layer", some(LAYERS, Once))
def test_a_lookup_equals_one_device(layer):
    assert_equal_to_plain(lambda: in_one_layer(layer), batches, MICROBATCHES)


def test_a_lookup_by_changing_state_equals_one_device():
    assert_equal_to_plain(lambda: in_one_layer(Counted), batches, DATA_PARALLEL)


@pytest.mark.full
def test_batches_of_different_lengths():
    assert_equal_to_plain(lambda: in_one_layer(TwoTables, None), lengths, MICROBATCHES)


class Summed(Table):
    """Adds up what it finds by token and by position, but for padding."""

    def call(self, x):
        found = ops.take(self.table, x, axis=0) + ops.take(self.table, ops.arange(ops.shape(x)[1]), axis=0)
        return ops.sum(found * ops.cast(x > 0, found.dtype)[..., None], axis=1)


def test_shares_padded_to_different_lengths_equal_a_batch_padded_to_one():
    x, y = tokens(8)
    x = x % 6 + 1
    x[2:4, 3:] = x[6:, 3:] = 0  # The second share of each batch is shorter.
    shares = [(x[i : i + 2, : 5 if i % 4 == 0 else 3], y[i : i + 2]) for i in range(0, 8, 2)]
    signature = tf.TensorSpec((2, None), "int32"), tf.TensorSpec((2, 1), "float64")

    def shares_of(wrapped):
        make = tf.data.Dataset.from_generator(lambda: iter(shares), output_signature=signature)
        return wrapped.distribute_strategy.distribute_datasets_from_function(lambda _: make.repeat())

    found = []
    for wrap in (lambda model: model, lambda model: kparallel.wrap(model, **DATA_PARALLEL)):
        keras.utils.set_random_seed(0)
        model = wrap(in_one_layer(Summed, None))
        model.compile(adam(), "mse")
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        model.fit(shares_of(model) if found else batches, epochs=2, steps_per_epoch=2 if found else None, verbose=0)
        found.append(model.get_weights())
    for got, want in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=FLOAT64)


@pytest.mark.full
def test_one_table_and_batches_of_different_lengths():
    """A function keeps to itself how many slices each lookup gave: a stage with microbatches is one."""
    assert_equal_to_plain(lambda: in_one_layer(OfLength, None), lengths, DATA_PARALLEL)
    wrapped = kparallel.wrap(in_one_layer(OfLength, None), **MICROBATCHES)
    with pytest.raises(errors.ModelError, match=r"of_length.*: how many slices each gives cannot be told"):
        fitted(wrapped, lengths())


@pytest.mark.parametrize("layer", some([OnceElsewhere, Shortened], OnceElsewhere))
def test_what_cannot_be_told_is_refused_by_name(layer):
    wrapped = kparallel.wrap(in_one_layer(layer), **DATA_PARALLEL)
    with pytest.raises(errors.ModelError, match=rf"{layer.__name__.lower()[:4]}.*whether more rows"):
        fitted(wrapped, batches())


class Pairs(Table):
    """Takes an even number of rows."""

    def find(self, x):
        pairs = tf.reduce_sum(tf.reshape(x, [x.shape[0] // 2, 2, 5]) * 0, axis=1) if x.shape[0] else x
        return tf.reduce_mean(tf.gather(self.table, tf.range(4)), axis=0) + tf.reduce_sum(tf.cast(pairs, "float64"))


def test_a_model_that_takes_even_rows_only_is_refused_by_name():
    wrapped = kparallel.wrap(in_one_layer(Pairs), **DATA_PARALLEL)
    with pytest.raises(errors.ModelError, match="pairs.*since the model takes no 2 or 3 rows"):
        fitted(wrapped, batches())


def test_lookups_of_tokens_need_no_other_trace(monkeypatch):
    monkeypatch.delattr(Probe, "sources")
    assert_equal_to_plain(lambda: in_one_layer(Table), batches, DATA_PARALLEL)
    assert_equal_to_plain(lambda: in_one_layer(MadeEarly), batches, DATA_PARALLEL, keras.optimizers.SGD)
    with pytest.raises(errors.ModelError, match="made_early"):
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


@pytest.mark.parametrize("sliced", some([True, False], True))
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
