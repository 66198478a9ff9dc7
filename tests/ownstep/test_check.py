"""Whether a step does the same whole and divided is found out before training goes on."""

import warnings
from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from tests.choice import all_but, some
from tests.equality.measure import use
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import state
from tests.ownstep.programs import FEATURES, Guide, mlp, regressed

L = keras.layers


class Step(Guide):
    """A step whose loss is a function of targets and outputs."""

    def __init__(self, loss, net=None):
        super().__init__(net or mlp(8, 1))
        self.own = loss
        self.kept = self.add_weight(shape=(14, 1), initializer="zeros", trainable=False)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.own(self, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def compares_rows(model, y, y_pred):
    return tf.reduce_mean((y_pred - tf.reduce_mean(y_pred, 0)) ** 2 + y * y_pred)


def mixes_in_a_product(model, y, y_pred):
    """The product has as many rows as each factor."""
    return tf.reduce_mean(tf.nn.softmax(tf.matmul(y_pred, y_pred, transpose_b=True), 1) @ y)


def batch_size_in_the_step(model, y, y_pred):
    return tf.reduce_sum((y - y_pred) ** 2) / 7.0


def sum_of_losses(model, y, y_pred):
    return tf.reduce_sum((y - y_pred) ** 2)


def ratio_of_sums(model, y, y_pred):
    return tf.reduce_sum(y**2 * (y - y_pred) ** 2) / tf.reduce_sum(y**2)


def keeps_rows(model, y, y_pred):
    model.kept.assign(tf.concat([tf.stop_gradient(y_pred), model.kept], 0)[:14])
    return tf.reduce_mean((y - y_pred) ** 2)


def insists_on_its_batch(model, y, y_pred):
    return tf.reduce_mean((tf.reshape(y, [7, 1]) - tf.reshape(y_pred, [7, 1])) ** 2)


def larger_half(model, y, y_pred):
    """The larger half of each two losses is often the larger half of all."""
    return tf.reduce_mean(tf.math.top_k((y - y_pred)[:, 0] ** 2, tf.shape(y)[0] // 2).values)


def first_rows(model, y, y_pred):
    """Five rows, as few as are compared, are all among the first six."""
    return tf.reduce_mean((y - y_pred) ** 2) + tf.reduce_mean(y_pred[:6] ** 2)


def rate_of_the_loss(model, y, y_pred):
    loss = tf.reduce_mean((y - y_pred) ** 2)
    model.optimizer.learning_rate.assign(0.1 / (1.0 + loss))
    return loss


def weights_by_a_deviation(model, y, y_pred):
    kernel = model.trainable_weights[-2]
    kernel.assign(kernel / tf.math.reduce_std(y_pred))
    return tf.reduce_mean((y - y_pred) ** 2)


FOUND = {
    "the larger half": (larger_half, {}, ["gradient of", "kparallel.gather"]),
    "rows compared": (compares_rows, {}, ["gradient of", "update 1 of 1", "kparallel.gather"]),
    "rows mixed in a product": (mixes_in_a_product, {}, ["gradient of", "kparallel.gather"]),
    "the first rows": (first_rows, {}, ["gradient of", "7 rows whole and divided"]),
    "a batch size in the step": (batch_size_in_the_step, {}, ["0.5 times the whole's", "tf.shape(x)[0]"]),
    "a sum of losses": (sum_of_losses, {}, ["0.5 times the whole's", 'loss_reduction="sum"']),
    "a mean taken for a sum": (
        lambda model, y, y_pred: tf.reduce_mean((y - y_pred) ** 2),
        {"loss_reduction": "sum"},
        ["2 times the whole's", "Leave out"],
    ),
    "a ratio of sums": (ratio_of_sums, {}, ["gradient of", "kparallel.all_reduce"]),
    "a learning rate of the loss": (rate_of_the_loss, {}, ["value assigned to 'adam", "learning_rate'"]),
    "weights by a deviation": (weights_by_a_deviation, {}, ["value assigned to", "kernel"]),
    "rows that are kept": (keeps_rows, {}, ["value assigned to", "kparallel.gather"]),
}


def wrapped(loss, net=None, replicas=2, **options):
    use("float64")
    model = kparallel.wrap(Step(loss, net), replicas=replicas, **options)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def fit(model):
    model.fit(**regressed(), batch_size=7, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    "name",
    all_but(FOUND, "rows compared", "a mean taken for a sum", "rows mixed in a product", "weights by a deviation"),
)
def test_what_is_found(name):
    loss, options, words = FOUND[name]
    model = wrapped(loss, **options)
    with pytest.raises(errors.ModelError) as caught:
        fit(model)
    for word in ["Step.train_step", "rows whole and divided between 2 replicas", *words]:
        assert word in str(caught.value), caught.value
    assert all(not copy.any() for copy in (model.kept.numpy(), *(v.numpy() for v in model.optimizer.variables[2:])))


def test_a_number_of_rows_that_shares_do_not_have_is_said():
    model = wrapped(lambda model, y, y_pred: tf.reduce_mean(tf.math.top_k(y_pred[:, 0], 6).values))
    with pytest.raises(errors.ModelError, match=r"the 7 of a batch as \[4, 3\], received from TensorFlow: .*needed 6"):
        fit(model)


def test_a_prediction_that_compares_rows_is_found():
    model = wrapped(lambda model, y, y_pred: tf.reduce_mean(y_pred))
    model.predict_step = lambda data: tf.nn.softmax(model(data[0] if isinstance(data, tuple) else data), axis=0)
    with pytest.raises(errors.ModelError, match="predict_step to do the same.*each replica by itself"):
        model.predict(regressed()["x"], batch_size=7, verbose=0)


@pytest.mark.parametrize("built", some([False, True], False))
def test_what_a_step_keeps_in_python_is_said(built):
    def starts(model, y, y_pred):
        if not getattr(model, "started", False):
            model.started = True
        return tf.reduce_mean((y - y_pred) ** 2)

    model = wrapped(starts)
    if built:
        model.optimizer.build(model.trainable_weights)
    with pytest.warns(UserWarning, match="Step.train_step sets 'started' of the model in Python"):
        fit(model)


def at_least(y, y_pred):
    return tf.maximum(tf.reduce_mean((y - y_pred) ** 2), 1e-9)


@pytest.mark.parametrize("choice", some([at_least, tf.function(at_least)], at_least))
def test_a_choice_by_a_replicas_rows_is_said(choice):
    """A few rows choose alike."""
    with pytest.warns(UserWarning, match=r"chooses by a number of each replica's own rows at .*test_check.py:\d+"):
        fit(wrapped(lambda model, y, y_pred: choice(y, y_pred)))


class Scaled(Step):
    """A step that recomputes, and scales gradients by hand where their norm is large. A warning is an error here."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((y - tf.recompute_grad(self.net)(x)) ** 2)
        gradients = tape.gradient(loss, self.trainable_weights)
        norm = tf.linalg.global_norm(gradients)
        scaled = [tf.where(norm > 0.1, 0.1 * each / norm, each) for each in gradients]
        self.optimizer.apply(scaled, self.trainable_weights)
        return {"loss": loss}


@pytest.mark.parametrize("replicas", some([2, 3], 3))
def test_a_choice_by_the_whole_batchs_gradients_is_none(replicas):
    """The graph has such a choice of each replica, and each reads all of it."""
    use("float64")
    ends = []
    for wrap in (lambda model: model, lambda model: kparallel.wrap(model, replicas=replicas)):
        keras.utils.set_random_seed(0)
        model = wrap(Scaled(None))
        model.compile(keras.optimizers.SGD(0.1))
        fit(model)
        ends.append(model.get_weights())
    for plain, own in zip(*ends, strict=True):
        np.testing.assert_allclose(own, plain, atol=FLOAT64)


def test_a_step_that_runs_in_graphs_alone_is_not_compared():
    def in_graphs(model, y, y_pred):
        loss = tf.reduce_mean((y - y_pred) ** 2)
        return loss + 0 * tf.gradients(loss, y_pred)[0][0, 0]

    with pytest.warns(UserWarning, match="does not run outside of a graph .*was not looked at"):
        fit(wrapped(in_graphs))


class Lookup(Guide):
    """Looks tokens up by a function of the table and the tokens."""

    def __init__(self, look_up):
        super().__init__(mlp(1, features=4))
        self.table = L.Embedding(10, 4)
        self.look_up = look_up

    def train_step(self, tokens):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.net(tf.reduce_sum(self.look_up(self.table, tokens), 1)) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def by_distinct_tokens(table, tokens):
    distinct, places = tf.unique(tf.reshape(tokens, [-1]))
    return tf.gather(table(distinct), tf.reshape(places, tf.shape(tokens)))


def by_tokens_and_positions(table, tokens):
    return table(tokens) + table(tf.range(5))


@pytest.mark.parametrize("look_up", some([by_distinct_tokens, by_tokens_and_positions], by_tokens_and_positions))
def test_slices_that_an_optimizer_would_treat_otherwise_are_found(look_up):
    """SGD scales and adds them, whatever their number."""
    use("float64")
    tokens = np.random.default_rng(0).integers(0, 10, (7, 5))
    for optimizer, found in ((keras.optimizers.Adam(0.01), True), (keras.optimizers.SGD(0.1), False)):
        model = kparallel.wrap(Lookup(look_up), replicas=2)
        model.compile(optimizer)
        with pytest.raises(errors.ModelError, match="the slices of the gradient") if found else nullcontext():
            model.fit(tokens, batch_size=7, shuffle=False, verbose=0)


def test_data_that_are_divided_by_hand_are_compared():
    model, data = wrapped(compares_rows), regressed()
    batches = tf.data.Dataset.from_tensor_slices((data["x"], data["y"])).batch(6)
    with pytest.raises(errors.ModelError, match="rows whole and divided between 2 replicas"):
        model.fit(model.distribute_strategy.experimental_distribute_dataset(batches), verbose=0)


def test_a_finding_may_be_a_warning_or_none():
    with pytest.warns(UserWarning, match="received the gradient of"):
        fit(wrapped(compares_rows, check="warn"))
    fit(wrapped(compares_rows, check="off"))
    with pytest.raises(errors.PlanError, match="check 'error', 'warn' or 'off'"):
        kparallel.wrap(mlp(1), check="maybe")


def test_a_warned_step_leaves_all_replicas_alike():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = wrapped(keeps_rows, check="warn")
        fit(model)
    for variable in model.variables:
        np.testing.assert_array_equal(*[copy.numpy() for copy in variable.value.values])


def noise(model, y, y_pred):
    noise = keras.random.normal(tf.shape(y_pred), dtype="float64")
    scale = keras.random.uniform((3,), dtype="float64")
    return tf.reduce_mean((y + noise - y_pred) ** 2) * tf.reduce_sum(scale)


def test_random_draws_and_batch_norm_are_no_findings():
    use("float64")
    net = keras.Sequential(
        [keras.Input((FEATURES,)), L.Dense(6), L.BatchNormalization(), L.Dropout(0.5), L.GaussianNoise(0.1), L.Dense(1)]
    )
    fit(wrapped(noise, net))


def test_what_tf_random_draws_is_held_equal():
    compared = []

    def drawn(model, y, y_pred):
        compared.append(tf.executing_eagerly())
        noise = tf.random.normal(tf.shape(y_pred), dtype=tf.float64) * tf.random.uniform((), dtype=tf.float64)
        return tf.reduce_mean((y + tf.nn.dropout(noise, 0.5) - y_pred) ** 2)

    fit(wrapped(drawn))
    assert sum(compared) == 4  # Twice whole, and by two replicas.
    with pytest.raises(errors.ModelError, match="gradient of"):
        fit(wrapped(lambda model, y, y_pred: drawn(model, y, y_pred) + compares_rows(model, y, y_pred)))


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(tf.random.shuffle, id="shuffle"),
        pytest.param(lambda like: tf.raw_ops.RandomStandardNormal(shape=tf.shape(like), dtype=tf.float64), id="raw"),
    ],
)
def test_what_else_tensorflow_draws_is_said_and_not_compared(draw):
    with pytest.warns(UserWarning, match=r"draws random numbers by tf.random.*which cannot be held equal"):
        fit(wrapped(lambda model, y, y_pred: tf.reduce_mean((y + draw(y_pred) - y_pred) ** 2)))


def test_the_check_leaves_the_state_as_it_was():
    """Of two models that train alike one has been checked."""
    found = []
    for check in ("error", "off"):
        keras.utils.set_random_seed(0)
        keras.backend.clear_session()
        model = wrapped(noise, check=check)
        fit(model)
        found.append(state(model))
    for one, other in zip(*map(dict.values, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT64)


def test_replicas_draw_apart_and_the_run_repeats_with_its_seed():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = wrapped(lambda model, y, y_pred: tf.reduce_mean(y_pred) * 0)
        model.draws = []

        def train_step(data, model=model):
            x, _ = data
            return {"draw": kparallel.gather(keras.random.normal(tf.shape(x)[:1], dtype="float64"))}

        model.train_step = train_step
        data = regressed()
        rows = (tf.constant(data["x"][:7]), tf.constant(data["y"][:7]))
        step = model.make_train_function()
        drawn.append([np.asarray(step(iter([rows]))["draw"]) for _ in range(2)])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    for draw in drawn[0]:
        assert len(draw) == 7 and len(set(draw)) == 7
    assert not set(drawn[0][0]) & set(drawn[0][1])
