"""When `shard="auto"` shares the optimizer out: where it saves enough, and where nothing else differs."""

import keras
import numpy as np
import pytest

import kparallel
from kparallel.model.auto_shard import trained_bytes

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
    assert whole.sliced == 4 * WIDE * 1024 and whole.number == 5
    assert (half.dense, half.sliced, half.number) == (whole.dense / 2, whole.sliced / 2, 2.5)
