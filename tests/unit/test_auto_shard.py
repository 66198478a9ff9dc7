"""When `shard="auto"` shares the optimizer out: where it saves enough, and where nothing else differs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.model import auto_shard
from kparallel.model.auto_shard import trained_bytes
from tests.assertions import assert_alike, doubles, state
from tests.pairs import seeded

L = keras.layers
WIDE = 4096  # A table of 4096 x 1024 and a kernel of 1024 x 2048: 17 and 8 MB.


class Own(keras.optimizers.SGD):
    pass


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def build(kind=keras.Model, width=1024):
    inputs = keras.Input((2,), dtype="int32")
    x = L.Flatten()(L.Embedding(WIDE, width)(inputs))
    return kind(inputs, L.Dense(1)(L.Dense(width, activation="relu")(x)), name="net")


@pytest.fixture
def compiled():
    def make(optimizer="adam", kind=keras.Model, width=1024, **arguments):
        model = kparallel.wrap(build(kind, width), replicas=2)
        model.compile(optimizer, "mse", **arguments)
        return model

    return make


def test_the_plan_says_what_is_shared_out_and_why(compiled):
    model = compiled()
    plan = model.plan
    assert plan.shard == "optimizer" and "shared out: each replica reads and writes about" in str(plan)
    assert kparallel.plan(model.unwrap(), replicas=2) == plan == kparallel.wrap(model, replicas=2).plan
    # Of a model that is not compiled nobody knows how it is trained.
    assert kparallel.plan(build(), replicas=2).shard is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 64},  # Small.
        {"optimizer": Own()},
        {"kind": OwnStep},
        {"run_eagerly": True},
    ],
    ids=["small", "own optimizer", "own step", "eager"],
)
def test_it_is_left_alone_where_it_saves_little_or_code_of_ones_own_may_see_it(compiled, arguments):
    plan = compiled(**arguments).plan
    assert plan.shard is None and "shared out" not in str(plan)


def test_what_the_user_says_stays():
    model = kparallel.wrap(build(), replicas=2, shard=None)
    model.compile("adam", "mse")
    assert model.plan.shard is None
    small = kparallel.wrap(build(width=8), replicas=2, shard="optimizer")
    small.compile("adam", "mse")
    assert small.plan.shard == "optimizer"
    assert kparallel.wrap(build(), replicas=1).plan.shard is None  # Nobody to share with.
    built = build()
    chosen = kparallel.plan(built, replicas=2)
    model = kparallel.wrap(built, chosen)
    model.compile("adam", "mse")
    assert model.plan == chosen and chosen.shard is None


def test_another_optimizer_is_decided_on_anew_and_trains_as_one_device(compiled):
    """Adam moves every row of the table; SGD those of a batch, so that nothing is saved by sharing out."""
    x, y = np.arange(8).reshape(4, 2) % WIDE, np.ones((4, 1))
    results = []
    for wrapped in (True, False):
        keras.utils.set_random_seed(1)
        model = kparallel.wrap(build(), replicas=2) if wrapped else build()
        shards = []
        for optimizer in (keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2)):
            model.compile(optimizer, "mse")
            model.fit(x, y, batch_size=4, verbose=0)
            shards += [model.plan.shard] if wrapped else []
        results.append([model.predict(x, verbose=0), *model.get_weights()])
        if wrapped:
            assert shards == ["optimizer", None]
    for ours, plain in zip(*results, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)


def test_tables_count_as_rows_and_stages_as_equal_parts():
    whole, half = trained_bytes(build(), 1), trained_bytes(build(), 2)
    assert whole.sliced == 4 * WIDE * 1024
    assert (half.dense, half.sliced) == (whole.dense / 2, whole.sliced / 2)


@pytest.fixture
def every_model_is_large(monkeypatch):
    monkeypatch.setattr(auto_shard, "sharding_pays", lambda *_: True)
    doubles()


X = np.arange(14.0).reshape(7, 2) % 8 / 8
Y = np.linspace(-1, 1, 7)


def wrapped_and_plain():
    """Yield a wrapped model that has trained with its optimizer shared out, then a plain one that trained alike."""
    for wrapped in (True, False):
        model = seeded(lambda: keras.Sequential([keras.Input((2,)), L.Dense(3, activation="tanh"), L.Dense(1)]))
        model = kparallel.wrap(model, replicas=2) if wrapped else model
        model.compile(keras.optimizers.Adam(0.1), "mse")
        fit(model)
        assert not wrapped or model.plan.shard == "optimizer"
        yield model


def fit(model):
    model.fit(X, Y, batch_size=4, verbose=0, shuffle=False)


def gradients_of(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y[:, None]) ** 2)
    return tape.gradient(loss, model.trainable_weights)


def loop_of(model):
    """Return a loop of one's own, which traces its step once."""
    strategy, optimizer = model.distribute_strategy, model.optimizer

    def step(x, y):
        share = tf.cast(tf.shape(x)[0], tf.float64) / len(X)
        optimizer.apply([g * share for g in gradients_of(model, x, y)], model.trainable_weights)

    whole = tf.function(lambda x, y: strategy.run(step, args=(x, y)))
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(len(X))
    return lambda: [whole(x, y) for x, y in strategy.experimental_distribute_dataset(batches)]


def assert_trains_as_plain(train):
    """Do the same with a wrapped model and with a plain one, both trained already."""
    states = []
    for model in wrapped_and_plain():
        train(model)
        states.append(state(model))
    assert_alike(*states)


@pytest.mark.usefixtures("every_model_is_large")
def test_a_loop_of_ones_own_that_updates_has_nothing_shared_out_from_then_on():
    """What it has traced keeps its slots, so that they must stay where they were."""

    def train(model):
        loop = loop_of(model)
        loop()
        model.compile(model.optimizer, "mse")
        fit(model)
        loop()
        assert not hasattr(model, "plan") or model.plan.shard is None

    assert_trains_as_plain(train)


@pytest.mark.usefixtures("every_model_is_large")
def test_a_step_of_ones_own_that_is_assigned_after_compile_may_update_under_a_condition():
    def train(model):
        def step(data):
            gradients, some = gradients_of(model, *data), model.optimizer.iterations < 3
            tf.cond(some, lambda: model.optimizer.apply(gradients, model.trainable_weights), lambda: None)
            return {"loss": tf.reduce_sum(gradients[0])}

        model.train_step = step
        model.make_train_function(force=True)
        fit(model)

    assert_trains_as_plain(train)


@pytest.mark.usefixtures("every_model_is_large")
def test_slots_stay_where_they_are_when_their_optimizer_is_compiled_again():
    """A function of one's own that updates has been traced for them there."""

    def train(model):
        optimizer = model.optimizer

        @tf.function
        def update():
            optimizer.apply(gradients_of(model, X, Y), model.trainable_weights)

        update()
        model.compile(optimizer, "mse", run_eagerly=True)
        fit(model)
        update()

    assert_trains_as_plain(train)


@pytest.mark.usefixtures("every_model_is_large")
def test_a_model_with_a_shared_out_optimizer_stands_in_another_one():
    """A GAN: its critic is compiled, and trained, by itself, and has its slots where it has put them."""
    states = []
    for critic in wrapped_and_plain():
        critic.trainable = False
        inputs = keras.Input((2,))
        both = keras.Model(inputs, critic(L.Dense(2, name="maker")(inputs)))
        both = kparallel.wrap(both, replicas=2) if hasattr(critic, "plan") else both
        both.compile(keras.optimizers.Adam(0.1), "mse")
        for _ in range(2):
            fit(both)
            fit(critic)
        states.append([state(both), state(critic)])
    assert_alike(*states)
