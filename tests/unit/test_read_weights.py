"""A compiled loss that reads weights: its gradient of them counts over replicas, and is refused in stages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel import errors
from kparallel.loss.read_weights import may_read_weights
from tests.equality.measure import use
from tests.pairs import pair, seeded

L = keras.layers


class Penalized(keras.losses.Loss):
    """Penalizes a weight inside a function, as a contractive autoencoder's loss does."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.penalty = tf.function(lambda: 0.1 * tf.reduce_sum(self.layer.kernel.value**2))

    def call(self, y_true, y_pred):
        return tf.reduce_mean((y_true - y_pred) ** 2, 1) + self.penalty()


def penalized():
    hidden = L.Dense(3, "tanh", name="hidden")
    model = keras.Sequential([keras.Input((4,)), hidden, L.Dense(1)], name="net")
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=0.1), Penalized(hidden))
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 4)), rng.normal(size=(7, 1))


def test_a_loss_that_reads_weights_equals_one_device():
    use("float64")
    histories, models = [], pair(penalized, replicas=2)
    for model in models:
        histories.append(model.fit(*data(), batch_size=5, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*histories, rtol=0, atol=1e-9)
    for one, other in zip(*(model.variables + model.optimizer.variables for model in models), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-9)


def test_stages_refuse_it_in_training_alone():
    use("float64")
    plain, model = pair(penalized, stages=2, microbatches=1)
    np.testing.assert_allclose(
        model.evaluate(*data(), verbose=0), plain.evaluate(*data(), verbose=0), rtol=0, atol=1e-9
    )
    with pytest.raises(
        errors.ModelError,
        match="under stages or microbatches, but they read the weights .*hidden/kernel",
    ):
        model.fit(*data(), verbose=0)
    assert not model.optimizer.iterations.numpy()


def test_losses_of_kerass_read_no_weights():
    use("float64")
    model, y = seeded(penalized), tf.zeros((2, 1), tf.float64)
    for loss in (Penalized(model.layers[0]), "mse"):
        model.compile("sgd", loss)
        assert may_read_weights(model)  # Not known before Keras has made losses of it.
        model.compute_loss(None, y, y)
        assert may_read_weights(model) is (loss != "mse")
