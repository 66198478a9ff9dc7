"""What holds where microbatches cannot equal the whole batch, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from tests.choice import some
from tests.pairs import pair, seeded
from tests.pipeline import models as m

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(10, 4)), RNG.normal(size=(10, 1))


def wrapped(model, batch_size=10, rows=10, epochs=1, rate=0.1, **options):
    keras.utils.set_random_seed(3)
    model = kparallel.wrap(model, **options)
    model.compile(keras.optimizers.SGD(rate), "mse")
    model.fit(X[:rows], Y[:rows], batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return model


@pytest.fixture(autouse=True)
def _double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.mark.parametrize(("replicas", "sizes"), [(1, [[4, 3, 3]]), (2, [[2, 2, 1], [2, 2, 1]])])
def test_moving_statistics_take_one_momentum_step_with_the_average_moments(replicas, sizes):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(1)(L.BatchNormalization(momentum=0.5, name="norm")(inputs)))
    norm = wrapped(model, replicas=replicas, stages=2, microbatches=3).get_layer("norm")
    means, variances, start = [], [], 0
    for replica in sizes:
        parts = [X[start + sum(replica[:i]) : start + sum(replica[: i + 1])] for i in range(len(replica))]
        means.append(np.mean([part.mean(0) for part in parts], 0))
        variances.append(np.mean([part.var(0) for part in parts], 0))
        start += sum(replica)
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.5 * np.mean(means, 0), atol=1e-12)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.5 + 0.5 * np.mean(variances, 0), atol=1e-12)
    for variable in (norm.moving_mean, norm.moving_variance):
        first, *others = [copy.numpy() for copy in variable.value.values]
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_an_empty_microbatch_counts_nowhere():
    full = m.normalized()
    # The second batch has one row, for three microbatches.
    model = wrapped(full, batch_size=4, rows=5, rate=0.0, stages=2, microbatches=3, replicas=1)
    norm = model.get_layer("norm")
    hidden = full.layers[1](X[:5]).numpy()
    first = np.mean([hidden[:2].mean(0), hidden[2:3].mean(0), hidden[3:4].mean(0)], 0)
    want = 0.5 * (0.5 * first) + 0.5 * hidden[4]
    np.testing.assert_allclose(norm.moving_mean.numpy(), want, atol=1e-12)


def seeds(model):
    generators = [layer.seed_generator for layer in model.layers if isinstance(layer, L.Dropout)]
    return [generator.state.numpy().tolist() for generator in generators]


def test_seeds_chain_in_the_order_of_the_microbatches():
    plain = m.normalized()
    plain.compile("sgd", "mse")
    for start in (0, 4, 7):  # Three calls, as three microbatches make.
        plain.train_on_batch(X[start : start + 3], Y[start : start + 3])
    assert seeds(wrapped(m.normalized(), stages=2, microbatches=3, replicas=1)) == seeds(plain)


@pytest.mark.parametrize(
    ("recompute", "schedule"),
    some(
        [(recompute, schedule) for recompute in ("always", "except_last") for schedule in ("1f1b", "gpipe")],
        ("except_last", "1f1b"),
    ),
)
def test_the_forward_pass_run_again_draws_the_same_masks(recompute, schedule):
    options = {"stages": 2, "microbatches": 3, "replicas": 2, "epochs": 2}
    want = wrapped(seeded(m.normalized), **options)
    got = wrapped(seeded(m.normalized), recompute=recompute, schedule=schedule, **options)
    for one, other in zip(got.variables, want.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-12)


def test_masks_differ_between_microbatches_and_repeat_with_the_seed():
    def gradients():
        inputs = keras.Input((64,))
        drop = L.Dropout(0.5, seed=5)(inputs)
        model = keras.Model(inputs, L.Dense(1, use_bias=False, kernel_initializer="zeros", name="head")(drop))
        model = kparallel.wrap(model, replicas=1, stages=2, microbatches=2)
        model.compile(keras.optimizers.SGD(1.0), keras.losses.MeanSquaredError(reduction="sum"))
        model.fit(np.ones((2, 64)), np.ones((2, 1)), batch_size=2, verbose=0)
        return model.get_weights()[0].ravel()

    # Kept inputs count 2: a weight moves by 0, 4 or 8 where no, one or both rows kept it. One mask would give 0 and 8.
    assert set(gradients().tolist()) == {0.0, 4.0, 8.0}
    np.testing.assert_array_equal(gradients(), gradients())


def test_a_loss_that_couples_rows_sees_the_whole_batch():
    def build():
        inputs = keras.Input((4,))
        return keras.Model(inputs, L.Dense(3, activation="softmax")(L.Dense(5, activation="tanh")(inputs)))

    target = np.eye(3)[RNG.integers(0, 3, 10)]
    plain, model = pair(build, replicas=2, stages=2, microbatches=2)
    for each in (plain, model):
        each.compile(keras.optimizers.SGD(0.5), keras.losses.Dice())
        each.fit(X, target, batch_size=10, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def two():
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(1, name="last")(L.Dense(5, name="first")(inputs)), name="two")


def shared_norm():
    inputs = keras.Input((4,))
    norm = L.BatchNormalization(name="norm")
    return keras.Model(inputs, L.Dense(1)(norm(L.Dense(4, name="between")(norm(inputs)))))


class Chain(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(1)

    def call(self, x):
        return self.dense(x)


class ReadsGlobal(L.Layer):
    """Adds a variable that is no weight of any layer."""

    def call(self, x):
        return x + GLOBAL["offset"]


GLOBAL = {}


def reads_global():
    GLOBAL["offset"] = tf.Variable(1.0, dtype="float64", name="offset")
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(1)(ReadsGlobal(name="reader")(L.Dense(4)(inputs))))


class DrawsGlobal(L.Layer):
    """Draws noise from Keras's global seed."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


def draws_global():
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(1)(DrawsGlobal(name="drawer")(L.Dense(4)(inputs))))


REFUSED = {
    "global variable": (
        lambda: wrapped(reads_global(), stages=2, replicas=1, microbatches=2),
        ["'reader'", "offset", "add_weight"],
    ),
    "global seed": (
        lambda: wrapped(draws_global(), stages=2, replicas=1, microbatches=2),
        ["'drawer'", "SeedGenerator"],
    ),
    "global seed in one stage": (lambda: wrapped(draws_global(), replicas=2), ["seed=self.seed_generator"]),
    "synchronized": (
        lambda: kparallel.wrap(
            keras.Sequential([keras.Input((4,)), L.BatchNormalization(synchronized=True, name="norm"), L.Dense(1)]),
            microbatches=2,
        ),
        ["'norm'", "synchronized=True", "microbatches=1"],
    ),
    "more stages than calls": (lambda: kparallel.wrap(two(), stages=3, replicas=1), ["1 to 2 stages", "received 3"]),
    "more stages than devices": (lambda: kparallel.wrap(two(), stages=5), ["4 stages", "replicas=1"]),
    "no stage": (lambda: kparallel.wrap(two(), stages=0), ["at least 1 stage"]),
    "unknown schedule": (lambda: kparallel.wrap(two(), stages=2, schedule="gpip"), ["'gpip'", "'gpipe'"]),
    "broken schedule": (
        lambda: kparallel.wrap(two(), stages=2, microbatches=1, schedule=lambda s, m: [["0F0", "0B0"], ["1B0", "1F0"]]),
        ["1B0", "<-- here"],
    ),
    "unknown recompute": (lambda: kparallel.wrap(two(), stages=2, recompute="some"), ["'except_last'", "'some'"]),
    "unknown layer": (lambda: kparallel.wrap(two(), stages=[["first"], ["lost"]]), ["'lost'", "Did you mean 'last'"]),
    "layer left out": (lambda: kparallel.wrap(m.residual(), stages=[["conv*", "block*"], ["head"]]), ["'global_av"]),
    "backwards": (
        lambda: kparallel.wrap(m.residual(), stages=[["conv*", "block*", "head"], ["global*"]]),
        ["reads", "'global_average"],
    ),
    "stage without layers": (
        lambda: kparallel.wrap(two(), stages=[["first", "last"], []]),
        ["every stage to have layers", "stage 1"],
    ),
    "fits nowhere": (
        lambda: kparallel.plan(two(), memory_per_device="100B", batch_size=8),
        ["100 B per device", "closest miss"],
    ),
    "memory without a batch": (lambda: kparallel.plan(two(), memory_per_device="8GB"), ["batch_size="]),
    "layer twice": (lambda: kparallel.wrap(two(), stages=[["first"], ["*"]]), ["'first'", "shared layer"]),
    "wrong order": (lambda: kparallel.wrap(two(), stages=[["last"], ["first"]]), ["'last'", "'first'", "Move one"]),
    "shared state": (
        lambda: kparallel.wrap(shared_norm(), stages=["between"], replicas=1),
        ["norm", "in one stage", "Move the cut"],
    ),
    "shared state everywhere": (
        lambda: kparallel.wrap(shared_norm(), stages=3, replicas=1),
        ["at most 2 stages", "'norm'", "layer of its own"],
    ),
    "device twice": (
        lambda: kparallel.wrap(two(), stages={"CPU:0": ["first"], "cpu:0": ["last"]}),
        ["CPU:0", "once"],
    ),
    "devices said twice": (
        lambda: kparallel.wrap(two(), stages={"CPU:0": ["first"], "CPU:1": ["last"]}, devices=["CPU:2"]),
        ["once"],
    ),
    "no graph": (
        lambda: kparallel.wrap(Chain(), stages=2),
        ["Functional", "keras.Model(inputs, outputs)"],
    ),
}


def test_a_first_batch_of_fewer_rows_than_microbatches_trains_with_a_warning():
    plain, parallel = pair(two, stages=2, replicas=2, microbatches=3)
    for model in (plain, parallel):
        model.compile("sgd", "mse")
    plain.fit(X, Y, batch_size=3, shuffle=False, verbose=0)
    with pytest.warns(UserWarning, match="2 rows, which 3 microbatches cannot share: 1 stay empty"):
        parallel.fit(X, Y, batch_size=3, shuffle=False, verbose=0)
    for one, other in zip(parallel.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name):
    attempt, words = REFUSED[name]
    with pytest.raises(errors.KParallelError) as caught:
        attempt()
    for word in words:
        assert word in str(caught.value)


def test_memory_chooses_a_plan_and_says_why():
    plain = kparallel.plan(m.u_net(), memory_per_device="8GB", batch_size=16)
    assert (plain.mesh.replicas, plain.mesh.stages) == (4, 1) and "plain data parallelism fits" in str(plain)

    def build():
        return keras.Sequential([keras.Input((100,)), *(L.Dense(100, name=f"d{index}") for index in range(8))])

    tight = kparallel.plan(seeded(build), memory_per_device="1.2MB", batch_size=8)
    assert tight.mesh.stages > 1 and ", the least predicted step time that fits" in str(tight)
    wide, model = pair(build, tight)
    for each in (wide, model):
        each.compile("sgd", "mse")
        each.fit(np.ones((8, 100)), np.ones((8, 100)), batch_size=8, verbose=0)
    for one, other in zip(model.get_weights(), wide.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
