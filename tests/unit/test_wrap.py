"""What a wrapped model is."""

import keras
import numpy as np

import kparallel


def line():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="line")


def test_public_names_are_sorted_and_load():
    assert kparallel.__all__ == sorted(kparallel.__all__)
    for name in kparallel.__all__:
        assert getattr(kparallel, name) is not None


def test_the_original_is_untouched():
    plain = line()
    before = plain.get_weights()
    wrapped = kparallel.wrap(plain)
    wrapped.compile("sgd", "mse")
    wrapped.fit(np.ones((6, 3)), np.ones((6, 1)), verbose=0)
    for one, other in zip(plain.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(wrapped, keras.Sequential) and isinstance(wrapped, kparallel.ParallelModel)
    assert [layer.name for layer in wrapped.layers] == [layer.name for layer in plain.layers]


def test_a_compiled_model_brings_its_optimizer_state():
    plain = line()
    plain.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = np.ones((6, 3)), np.ones((6, 1))
    plain.fit(x, y, verbose=0)
    wrapped = kparallel.wrap(plain)
    assert int(wrapped.optimizer.iterations.numpy()) == 1
    plain.fit(x, y, verbose=0)
    wrapped.fit(x, y, verbose=0)
    for one, other in zip(wrapped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_unwrap_gives_a_plain_model():
    wrapped = kparallel.wrap(line)
    wrapped.compile("adam", "mse")
    wrapped.fit(np.ones((6, 3)), np.ones((6, 1)), verbose=0)
    plain = wrapped.unwrap()
    assert type(plain) is keras.Sequential
    for one, other in zip(plain.get_weights(), wrapped.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_its_constructor_leaves_unbuilt_is_unwrapped_and_wrapped_again():
    wrapped = kparallel.wrap(lambda: WithLoss(name="with_loss"), replicas=2)
    wrapped.compile("sgd")
    wrapped.fit(np.ones((6, 3)), np.ones((6, 1)), verbose=0)
    plain = wrapped.unwrap()
    assert type(plain) is WithLoss
    np.testing.assert_array_equal(plain.get_weights()[0], wrapped.get_weights()[0])
    again = kparallel.wrap(plain, replicas=2)
    np.testing.assert_array_equal(again.get_weights()[0], wrapped.get_weights()[0])


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
    plain = line()
    wrapped = kparallel.wrap(plain, replicas=2)
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
