"""Steps that draw at random: they train, replicas draw differently, and the run repeats with its seed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.model_variables import optimizers_of, variables_of
from tests.choice import some
from tests.equality.measure import use
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import state
from tests.ownstep.programs import FEATURES, LATENT, PROGRAMS, Adversaries, LossState, rows
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


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(denoising(3), id="own"),
        pytest.param(denoising(None), id="global", marks=pytest.mark.full),
        pytest.param(painting, id="painting", marks=pytest.mark.full),
    ],
)
def test_the_run_repeats_with_its_seed(build):
    one, other = (state(fit(build, 2)[0]) for _ in range(2))
    for name, value in one.items():
        # TensorFlow itself may add in another order: plain Keras differs in the last place in one of some forty runs.
        np.testing.assert_allclose(value, other[name], rtol=0, atol=FLOAT64, err_msg=name)


@pytest.mark.parametrize("seed", some([3, None], None))
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


def drawing(program):
    """Return a program's model, wrapped, whose step draws noise by which it scales each number that it is given."""
    model = seeded(program.model)
    step = model.train_step

    def train_step(data):
        noises = []

        def scaled(leaf):
            if leaf is None or not leaf.dtype.is_floating:
                return leaf
            noises.append(keras.random.normal(tf.shape(leaf), dtype=leaf.dtype))
            return leaf * (1 + 0.1 * noises[-1])

        data = keras.tree.map_structure(scaled, data)
        of_rows = tf.reshape(noises[0], [tf.shape(noises[0])[0], -1])[:, 0]
        return (step(data) or {}) | {"noise": kparallel.gather(of_rows)}

    model.train_step = train_step
    return kparallel.wrap(model, replicas=2, **program.options)


# `inherited` counts the rows of what it has drawn.
IN_EVERY_RUN = ["distillation"]


@pytest.mark.parametrize("name", some(PROGRAMS, *IN_EVERY_RUN))
def test_programs_with_draws_inside(name):
    """Two steps and the first once more, all by one trace: the check finds nothing, and holds all draws equal."""
    use("float64")
    model = drawing(PROGRAMS[name])
    data = {key: value for key, value in PROGRAMS[name].data().items() if key != "class_weight"}
    batch = keras.utils.pack_x_y_sample_weight(**data)
    batch = keras.tree.map_structure(lambda part: part if part is None else tf.constant(part[:7]), batch)
    step = model.make_train_function()
    step(iter([batch]))
    variables = [*variables_of(model), model._kparallel.draws().state]
    before = [variable.numpy() for variable in variables]
    runs = []
    for _ in range(2):
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        noise = step(iter([batch]))["noise"].numpy()
        runs.append([noise, *(variable.numpy() for variable in variables)])
    np.testing.assert_array_equal(*(run[0] for run in runs))
    for one, other in zip(*runs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT64)
    assert all(np.all(np.isfinite(value)) for value in runs[0])
    moved = any(np.any(after != value) for after, value in zip(runs[0][1:], before, strict=True))
    assert moved or not optimizers_of(model)
    noises = np.concatenate([runs[0][0], step(iter([batch]))["noise"].numpy()])
    assert len(noises) == len(set(noises)) == 14
