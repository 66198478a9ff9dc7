"""What a model's own `compute_loss` assigns and draws, variables that nothing of the model knows, and loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.choice import some
from tests.equality.measure import use
from tests.equality.plans import PLANS, plans
from tests.equality.tolerances import FLOAT64

L = keras.layers
O = keras.optimizers  # noqa: E741
ops = keras.ops
SOME = plans(
    "1x1", "2x1", "3x1", "2x1_microbatches", "1x2_1f1b", "2x2_gpipe_recompute", default=("2x2_gpipe_recompute",)
)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 4)), RNG.normal(size=(23, 1))


@pytest.fixture(autouse=True)
def _double():
    use("float64")


class Annealed(keras.Model):
    """Weighs its loss by a counter of steps, and keeps a moving average of it."""

    def __init__(self, kind="", **kwargs):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        hidden = L.Dense(3, activation="tanh")(inputs)
        super().__init__(inputs, L.Dense(1)(Counting()(hidden) if kind == "layer" else hidden), **kwargs)
        self.kind = kind
        self.beta = self.add_weight(shape=(), initializer="zeros", trainable=False, name="beta")
        self.average = self.add_weight(shape=(), initializer="ones", trainable=False, name="average")
        self.seeds = keras.random.SeedGenerator(5)
        self.foreign = Box()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            self.beta.assign_add(0.1)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training) * (1.0 + self.beta)
        self.average.assign(0.9 * self.average + 0.1 * ops.mean((y - y_pred) ** 2))
        keras.random.normal((), seed=self.seeds)
        if self.kind == "spread":
            self.average.assign(ops.std(y_pred))
        if self.kind == "foreign":
            self.foreign.counter.assign_add(1.0)
        if self.kind == "layer":
            loss *= self.layers[2].counter
        return loss


class Box:
    """Hides a variable from Keras."""

    def __init__(self):
        self.counter = keras.Variable(0.0, trainable=False, name="hidden_counter")


class Counting(L.Layer):
    """Counts its calls."""

    def build(self, shape):
        self.counter = self.add_weight(shape=(), initializer="ones", trainable=False, name="counter")

    def call(self, inputs):
        self.counter.assign_add(1.0)
        return inputs


def trained(model, plan, loss="mse", optimizer=None, **options):
    model = kparallel.wrap(model, **PLANS[plan], **options) if plan else model
    model.compile(optimizer or O.SGD(0.05), loss)
    history = model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return model, [history["loss"], model.evaluate(X, Y, batch_size=7, verbose=0)]


def named(model):
    """Return a model's variables but for its seeds."""
    return {str(i): variable for i, variable in enumerate(model.variables) if variable is not model.seeds.state}


def assert_as_plain(build, plan, **options):
    plain, want = trained(build(), None)
    model, got = trained(build(), plan, **options)
    for name, variable in named(plain).items():
        want.append(variable.numpy())
        got.append(named(model)[name].numpy())
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT64)
    return model, plain


@pytest.mark.parametrize("plan", SOME)
def test_what_compute_loss_assigns_and_draws(plan):
    model, plain = assert_as_plain(Annealed, plan)
    seeds, want = model.seeds.state.numpy(), plain.seeds.state.numpy()
    assert seeds[0] == want[0] and seeds[1] >= want[1] > 0
    if PLANS[plan].get("microbatches", 1) == 1:  # Else each microbatch draws.
        assert seeds[1] == want[1]
    for variable in model.variables:
        first, *others = variable.value.values
        for other in others:
            np.testing.assert_array_equal(first.numpy(), other.numpy())


def test_compute_loss_of_the_whole_batch_assigns_whatever_it_likes():
    assert_as_plain(lambda: Annealed("spread"), "2x1", loss_reduction="global")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("spread", "'annealed.*average'.*neither a sum nor a mean"),
        ("foreign", "'hidden_counter'.*add_weight"),
        ("layer", "counter' is changed in a layer's call and used in compute_loss"),
    ],
)
def test_what_compute_loss_may_not_change(kind, words):
    with pytest.raises(kparallel.errors.ModelError, match=words):
        trained(Annealed(kind), "2x1")


def raw(name):
    """Return a variable that Keras does not track."""
    return tf.Variable(0.0, trainable=False, dtype="float64", name=name)


class Hidden(L.Layer):
    """Counts in a variable that Keras does not track."""

    def __init__(self, make, within):
        super().__init__()
        self.box = Box()
        self.box.counter, self.within = make("hidden_counter"), within

    def call(self, inputs):
        def count():
            self.box.counter.assign_add(1.0)
            return tf.constant(0.0, "float64")

        if self.within == "while":
            tf.while_loop(lambda i: i < 1, lambda i: (i + 1, count())[:1], [0])
        elif self.within == "function":
            tf.function(count)()
        else:
            count()
        return inputs


class CountingLoss(keras.losses.Loss):
    """Has a state."""

    def __init__(self):
        super().__init__()
        self.counter = keras.Variable(0.0, trainable=False, name="hidden_counter")

    def call(self, y_true, y_pred):
        self.counter.assign_add(1.0)
        return ops.mean((y_true - y_pred) ** 2, -1) * self.counter


class CountingSGD(O.SGD):
    """Scales by a counter that it made without `add_variable`."""

    def __init__(self, rate):
        super().__init__(rate)
        self.counter = raw("hidden_counter")

    def apply(self, grads, trainable_variables=None):
        self.counter.assign_add(1.0)
        super().apply([gradient / self.counter for gradient in grads], trainable_variables)


def line(*layers):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), *layers, L.Dense(1)])


def kept(name):
    return keras.Variable(0.0, trainable=False, name=name)


@pytest.mark.parametrize(
    ("make", "within"),
    some(
        [(make, within) for make in (raw, kept) for within in ("call", "while", "function")],
        (raw, "while"),
    ),
)
def test_a_variable_that_no_layer_knows_is_written_on_one_device_alone(make, within):
    counts = []
    for plan in (None, "1x1"):
        layer = Hidden(make, within)
        trained(line(layer), plan)
        counts.append(float(layer.box.counter))
    assert counts[0] == counts[1] > 0
    with pytest.raises(kparallel.errors.ModelError, match="'hidden_counter'.*add_weight"):
        trained(line(Hidden(make, within)), "2x1")


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [(CountingLoss, O.SGD), (keras.losses.MeanSquaredError, CountingSGD)],
    ids=["loss", "optimizer"],
)
def test_a_loss_or_an_optimizer_with_a_variable_that_nothing_knows(loss, optimizer):
    want, got = (trained(line(), plan, loss(), optimizer(0.01))[1] for plan in (None, "1x1"))
    np.testing.assert_allclose(np.hstack(got), np.hstack(want), rtol=0, atol=FLOAT64)
    with pytest.raises(kparallel.errors.ModelError, match=r"'hidden_counter'.*compute_loss"):
        trained(line(), "2x1", loss(), optimizer(0.01))


class Cell(L.Layer):
    """Counts its steps."""

    state_size = output_size = 3

    def build(self, shape):
        self.dense, self.counter = L.Dense(3), self.add_weight(shape=(), trainable=False, name="steps")
        self.dense.build((None, 7))

    def call(self, inputs, states):
        self.counter.assign_add(1.0)
        hidden = ops.tanh(self.dense(ops.concatenate([inputs, states[0]], -1)))
        return hidden, [hidden]


@pytest.mark.parametrize("plan", some(["2x1", "1x2_1f1b"], "2x1"))
def test_a_cell_that_counts_its_steps_is_refused_unless_it_is_unrolled(plan):
    def recurrent(unroll):
        return line(L.Reshape((1, 4)), L.ZeroPadding1D((0, 2)), L.RNN(Cell(), unroll=unroll))

    (plain, want), (model, got) = (trained(recurrent(True), each) for each in (None, plan))
    np.testing.assert_allclose(np.hstack(got), np.hstack(want), rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(model.layers[2].cell.counter.numpy(), plain.layers[2].cell.counter.numpy())
    with pytest.raises(kparallel.errors.ModelError, match="steps', which is assigned inside one"):
        trained(recurrent(False), plan)
