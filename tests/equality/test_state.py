"""State that is not trained: BatchNorm, Dropout, loss scaling."""

import keras
import numpy as np

import kparallel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")


def copies(variable):
    return [value.numpy() for value in variable.value.values]


def normalized(synchronized):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.BatchNormalization(momentum=0.0, synchronized=synchronized),
            keras.layers.Dense(1, use_bias=False),
        ]
    )


def fitted(model):
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    return model


def test_batch_norm_averages_the_replicas_moments():
    norm = fitted(kparallel.wrap(normalized(False), replicas=2)).layers[0]
    np.testing.assert_allclose(norm.moving_variance.numpy(), [1.359994, 0.424557, 0.294130], atol=1e-5)
    first, second = copies(norm.moving_variance)
    np.testing.assert_array_equal(first, second)


def test_synchronized_batch_norm_equals_one_device():
    norm = fitted(kparallel.wrap(normalized(True), replicas=2)).layers[0]
    np.testing.assert_allclose(norm.moving_variance.numpy(), [1.397457, 0.424584, 0.338170], atol=1e-5)


def test_dropout_differs_between_replicas_and_repeats_with_the_seed():
    def run(replicas):
        keras.utils.set_random_seed(7)
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5, seed=3)])
        wrapped = kparallel.wrap(
            keras.Sequential([model, keras.layers.Dense(1, kernel_initializer="ones")]), replicas=replicas
        )
        wrapped.compile(keras.optimizers.SGD(1.0), loss="mse")
        x = np.ones((2, 64), "float32")
        wrapped.fit(x, np.zeros((2, 1)), batch_size=2, epochs=2, verbose=0)
        return wrapped.get_weights()[0].ravel()

    np.testing.assert_array_equal(run(2), run(2))
    # Rows with one mask for both would move each weight by 0 or by the sum; differing masks give a third value.
    assert len(np.unique(np.round(run(2), 3))) > 2


def test_an_infinite_row_skips_the_step_everywhere():
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [2.0], [3.0]])])
    wrapped = kparallel.wrap(model, replicas=2)
    wrapped.compile(keras.optimizers.SGD(0.1), "mse")
    x = X.copy()
    x[7] = np.inf
    wrapped.fit(x, Y, batch_size=8, verbose=0)
    np.testing.assert_array_equal(wrapped.get_weights()[0].ravel(), [1.0, 2.0, 3.0])
    assert float(wrapped.optimizer.dynamic_scale.numpy()) == 16384.0
