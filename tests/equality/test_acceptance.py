"""Cases in which stock Keras under `MirroredStrategy` is wrong, with the numbers that one device gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.choice import some
from tests.pairs import pair

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")
O = keras.optimizers  # noqa: E741


def line(*before):
    model = keras.Sequential([keras.Input((3,)), *before, keras.layers.Dense(1, use_bias=False, name="line")])
    model.get_layer("line").set_weights([np.array([[1.0], [2.0], [3.0]])])
    return model


def plain_and_wrapped():
    return pair(line, replicas=2)


def fit(model, optimizer=None, rows=8, batch_size=8, loss="mse", epochs=1, validation=None, **arguments):
    model.compile(optimizer or O.SGD(0.1), loss, **arguments)
    x, y = X[:rows], Y[:rows]
    return model.fit(
        x, y, batch_size=batch_size, epochs=epochs, validation_data=validation, shuffle=False, verbose=0
    ).history


def assert_weights(model, want, atol=1e-5):
    np.testing.assert_allclose(model.get_layer("line").get_weights()[0].ravel(), want, rtol=0, atol=atol)


def assert_like(wrapped, plain):
    assert_weights(wrapped, plain.get_layer("line").get_weights()[0].ravel())


def test_an_even_batch():
    _, model = plain_and_wrapped()
    assert fit(model)["loss"] == pytest.approx([7.894372], abs=1e-5)
    assert_weights(model, [0.408630, 1.803591, 2.806170])


@pytest.mark.parametrize("rows", some(range(1, 8), 3, 5, 7))
def test_an_uneven_batch(rows):
    """Every number of rows below two batches of 4; the first or the last batch does not divide, or has one row."""
    plain, model = plain_and_wrapped()
    histories = [fit(each, rows=rows, batch_size=4) for each in (plain, model)]
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], atol=1e-5)
    assert_like(model, plain)
    if rows == 7:
        assert_weights(model, [-0.294008, 1.491182, 2.543568])


def test_an_odd_first_batch_and_odd_validation():
    plain, model = plain_and_wrapped()
    histories = [fit(each, rows=6, batch_size=3, validation=(X[:5], Y[:5])) for each in (plain, model)]
    assert_weights(model, [-0.286827, 1.658226, 2.518738])
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, atol=1e-5)
    values = [fit(each, validation=(X[:5], Y[:5]))["val_loss"] for each in (plain, model)]
    np.testing.assert_allclose(values[1], values[0], atol=1e-5)


@pytest.mark.parametrize(
    ("clip", "want"),
    [({"global_clipnorm": 1.0}, [0.909380, 1.969903, 2.970298]), ({"clipvalue": 0.5}, [0.95, 1.95, 2.95])],
)
def test_clipping(clip, want):
    _, model = plain_and_wrapped()
    fit(model, O.SGD(0.1, **clip))
    assert_weights(model, want)


def test_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    _, model = plain_and_wrapped()
    fit(model, epochs=6)
    assert_weights(model, [-0.4367, 1.4478, 2.4635], atol=1e-3)
    assert float(model.optimizer.dynamic_scale.numpy()) == 8192.0


def test_an_infinite_row_skips_the_step_everywhere():
    keras.config.set_dtype_policy("mixed_float16")
    _, model = plain_and_wrapped()
    model.compile(O.SGD(0.1), "mse")
    x = X.copy()
    x[7] = np.inf
    model.fit(x, Y, batch_size=8, verbose=0)
    assert_weights(model, [1.0, 2.0, 3.0], atol=0)
    assert float(model.optimizer.dynamic_scale.numpy()) == 16384.0


def test_a_scalar_loss():
    _, model = plain_and_wrapped()
    history = fit(model, loss=lambda y, p: tf.reduce_mean((y - p) ** 2))
    assert history["loss"] == pytest.approx([7.894372], abs=1e-5)
    assert_weights(model, [0.408630, 1.803591, 2.806170])


@keras.saving.register_keras_serializable("kparallel_tests")
class ScalarLoss(keras.Sequential):
    """Computes its loss by itself."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 2)


def test_a_scalar_compute_loss():
    model = ScalarLoss(line().layers)
    model.build((None, 3))
    kparallel.wrap(model, replicas=2)
    assert fit(model)["loss"] == pytest.approx([7.894372], abs=1e-5)
    assert_weights(model, [0.408630, 1.803591, 2.806170])


def test_accumulation():
    _, model = plain_and_wrapped()
    fit(model, O.SGD(0.1, gradient_accumulation_steps=2), batch_size=4)
    assert_weights(model, [0.408630, 1.803591, 2.806170])


def test_an_average_that_overwrites():
    plain, model = plain_and_wrapped()
    for each in (plain, model):
        fit(each, O.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=1), batch_size=4)
    assert_like(model, plain)


def test_several_steps_in_one_execution():
    _, model = plain_and_wrapped()
    fit(model, batch_size=4, steps_per_execution=2)
    assert_weights(model, [-0.100078, 1.623481, 2.648060])


def test_batch_norm_averages_the_replicas_moments(tmp_path):
    check_moving_variance(False, [1.359994, 0.424557, 0.294130], tmp_path)


def test_synchronized_batch_norm_equals_one_device(tmp_path):
    check_moving_variance(True, [1.397457, 0.424584, 0.338170], tmp_path)


def check_moving_variance(synchronized, want, tmp_path):
    norm = keras.layers.BatchNormalization(momentum=0.0, synchronized=synchronized, name="norm")
    model = kparallel.wrap(line(norm), replicas=2)
    fit(model, O.SGD(0.0))
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_variance.numpy(), want, atol=1e-5)
    for variable in (norm.moving_mean, norm.moving_variance):
        first, second = (copy.numpy() for copy in variable.value.values)
        np.testing.assert_array_equal(first, second)
    before = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), before, rtol=0, atol=1e-6)


def kept(rows=4, steps=2):
    """Train a linear sum of dropped-out ones; return by how much each step moved each weight."""

    class Moves(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.moves, self.last = [], self.model.get_weights()[0].ravel()

        def on_train_batch_end(self, batch, logs=None):
            now = self.model.get_weights()[0].ravel()
            self.moves.append(now - self.last)
            self.last = now

    keras.utils.set_random_seed(7)
    inputs = keras.Input((64,))
    dropped = keras.layers.Dropout(0.5, noise_shape=(1, 64), seed=3)(inputs)
    head = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = kparallel.wrap(keras.Model(inputs, head(dropped)), replicas=2)
    # The loss is linear in the outputs, so that a step moves a weight by what its input was after dropout.
    model.compile(O.SGD(1.0), lambda y_true, y_pred: -keras.ops.mean(y_pred, axis=-1))
    moves = Moves()
    ones = np.ones((rows * steps, 64), "float32")
    model.fit(ones, ones[:, :1], batch_size=rows, shuffle=False, verbose=0, callbacks=[moves])
    return np.array(moves.moves)


def test_dropout_differs_between_replicas_and_repeats_with_the_seed():
    """Rows of a replica share a mask: an input kept by both replicas moves its weight by 2, by one 1, by none 0."""
    moves = kept()
    np.testing.assert_allclose(moves, np.round(moves), atol=1e-6)
    assert set(np.round(moves).ravel()) == {0.0, 1.0, 2.0}  # The replicas' masks differ: no 1 without.
    assert (moves[0] != moves[1]).any()  # And so do the steps'.
    np.testing.assert_array_equal(kept(), moves)


def test_a_lookup_of_strings():
    words = np.array(["a", "b", "c", "a", "d"])

    def build():
        inputs = keras.Input((), dtype="string")
        hidden = keras.layers.StringLookup(vocabulary=["a", "b", "c"])(inputs)
        return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Embedding(4, 3)(hidden)))

    plain, model = pair(build, replicas=2)
    histories = []
    for each in (plain, model):
        each.compile(O.SGD(0.1), "mse")
        data = tf.data.Dataset.from_tensor_slices((words, Y[:5])).batch(3)
        histories.append(each.fit(data, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(histories[1], histories[0], atol=1e-5)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_predict_on_batch_gives_each_row_once():
    plain, model = plain_and_wrapped()
    outputs = model.predict_on_batch(X[:4])
    assert outputs.shape == (4, 1)
    np.testing.assert_allclose(outputs, plain.predict_on_batch(X[:4]), atol=1e-6)


@pytest.mark.parametrize("rows", [13, 9])
def test_predict_keeps_the_order_of_rows(rows):
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype("float32")
    _, model = plain_and_wrapped()
    np.testing.assert_allclose(model.predict(x, batch_size=8, verbose=0), x @ [[1.0], [2.0], [3.0]], atol=1e-5)
