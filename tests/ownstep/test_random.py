"""Steps that draw at random: they train, replicas draw differently, and the run repeats with its seed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.equality.measure import use
from tests.ownstep.measure import state
from tests.ownstep.programs import FEATURES, LATENT, Adversaries, LossState, rows
from tests.pairs import seeded

L = keras.layers


class Drawing(LossState):
    """Denoises what it has made noisy itself, from a generator of its own or from Keras's global one."""

    def __init__(self, seed):
        super().__init__("loss")
        self.net = keras.Sequential([keras.Input((FEATURES,)), L.Dense(12, "tanh"), L.Dropout(0.1), L.Dense(FEATURES)])
        self.seed = seed and keras.random.SeedGenerator(seed)

    def draw(self, like):
        return keras.random.normal(tf.shape(like), dtype=like.dtype, seed=self.seed)

    def train_step(self, x):
        noise = self.draw(x)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.net(x + 0.3 * noise, training=True) - x) ** 2)
        self.minimize(tape, loss, self.trainable_weights)
        return self.track(loss=loss) | {"noise": kparallel.gather(noise)[:, 0]}


class Painting(Adversaries):
    """The adversaries, with noise that the step draws."""

    def train_step(self, real):
        count = tf.shape(real)[0]
        noise = keras.random.normal((count, 4, LATENT), dtype=real.dtype)
        mix = keras.random.uniform((count, 1), dtype=real.dtype)
        return super().train_step({"real": real, "noise": noise, "mix": mix})


def denoising(seed):
    def build():
        model = Drawing(seed)
        model.compile(keras.optimizers.Adam(0.01))
        return model

    return build


def painting():
    model = Painting()
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.01))
    return model


def fit(build, replicas, epochs=1):
    use("float64")
    model = kparallel.wrap(seeded(build), replicas=replicas)
    history = model.fit(rows((FEATURES,))[0], batch_size=7, epochs=epochs, shuffle=False, verbose=0).history
    return model, history


@pytest.mark.parametrize("build", [denoising(3), denoising(None), painting], ids=["own", "global", "painting"])
def test_the_run_repeats_with_its_seed(build):
    one, other = (state(fit(build, 2)[0]) for _ in range(2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("seed", [3, None])
def test_it_trains_and_replicas_draw_differently(seed):
    model, history = fit(denoising(seed), 2, epochs=30)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    noise = model.train_function(iter([tf.constant(rows((FEATURES,))[0][:7])]))["noise"].numpy()
    assert len(noise) == 7 and len(set(noise)) == 7


def test_one_replica_draws_what_plain_keras_draws():
    use("float64")
    plain = seeded(denoising(None))
    plain.fit(rows((FEATURES,))[0], batch_size=7, shuffle=False, verbose=0)
    model, _ = fit(denoising(None), 1)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


def test_seeds_move_on_as_on_one_device():
    plain, _ = fit(denoising(3), 1)
    model, _ = fit(denoising(3), 3)
    np.testing.assert_array_equal(plain.seed.state.numpy(), model.seed.state.numpy())
    assert all(copy.numpy()[0] == 3 for copy in model.seed.state.value.values)
