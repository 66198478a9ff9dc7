"""Weights that their owners alone hold: the result is that of one device, and a device holds its part between steps."""

from collections import Counter

import keras
import numpy as np
import pytest

import kparallel
from kparallel.compat.optimizers import slots_by_weight
from kparallel.errors import ModelError, PlanError
from kparallel.model_variables import bytes_of
from tests.assertions import assert_alike, doubles, state
from tests.choice import some
from tests.pairs import pair, seeded
from tests.uneven import X, Y, fit, net

L = keras.layers
O = keras.optimizers  # noqa: E741
SHARED = {"replicas": 2, "shard": "weights"}
STAGES = {**SHARED, "stages": 3, "microbatches": 1, "devices": ["CPU:0", "CPU:1"]}  # All on each device.


@pytest.fixture(autouse=True)
def _doubles():
    doubles()


@pytest.mark.parametrize("make", [O.Adam, O.Muon, lambda: O.SGD(momentum=0.9, use_ema=True)])
@pytest.mark.parametrize("options", [{**SHARED, "replicas": 4}, {**SHARED, "stages": 2}, STAGES])
def test_a_device_holds_an_equal_part_and_at_most_the_largest_weight_with_its_slots_more(make, options):
    model = kparallel.wrap(seeded(net), **options)
    model.compile(make(), "mse")
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()  # Places what has been made since.
    held = {weight.path: bytes_of(weight) for weight in model.trainable_variables}
    on_devices = Counter()
    for slot, weight in slots_by_weight(model.optimizer):
        (copy,), (of_weight,) = slot.value.values, weight.value.values
        assert copy.device == of_weight.device
        on_devices[copy.device] += bytes_of(slot)
        held[weight.path] += bytes_of(slot)
    for weight in model.trainable_variables:
        on_devices[weight.value.values[0].device] += bytes_of(weight)
    devices = {name for row in model.plan.mesh.rows for name in row}
    assert len(on_devices) == len(devices)
    assert max(on_devices.values()) <= sum(held.values()) / len(devices) + max(held.values())


class Reads(keras.callbacks.Callback):
    """Notes a weight after each batch, as the user's own callbacks do."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(np.asarray(self.model.layers[1].kernel))


def test_everything_that_reads_a_weight_gets_it(tmp_path):
    plain, model = pair(net, **STAGES)
    found, wanted = Reads(), Reads()
    for each, reads in ((plain, wanted), (model, found)):
        each.compile(O.Adam(0.01), "mse")
        fit(each, callbacks=[reads])
        each.layers[0].kernel.assign(2 * each.layers[0].kernel)
    assert_alike(found.seen, wanted.seen)
    assert_alike(np.asarray(model(X)), np.asarray(plain(X)))
    assert_alike(state(model), state(plain))
    model.save(tmp_path / "model.keras")
    assert_alike(state(keras.saving.load_model(tmp_path / "model.keras")), state(plain))


def test_weights_stay_with_their_owners_when_a_layer_is_unfrozen_until_the_next_compile():
    """As in plain Keras, whose optimizer does not know the layer's weights."""
    plain, model = pair(net, **{**SHARED, "replicas": 3})
    for each in (plain, model):
        each.layers[0].trainable = False
        each.compile(O.Adam(0.01), "mse")
        for _ in range(2):
            fit(each)
            each.layers[0].trainable = True
    assert_alike(state(model), state(plain))


@pytest.mark.parametrize("options", [STAGES, {"replicas": 1, "stages": 2, "microbatches": 2}])
def test_a_decay_leaves_out_the_layers_that_it_names(options):
    """Weights whose variable is new, since they have moved, keep the name by which the decay knows them."""
    plain, model = pair(net, **options)
    for each in (plain, model):
        optimizer = O.AdamW(0.01, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["dense_2", "dense_3/kernel", "dense/"])
        each.compile(optimizer, "mse")
        fit(each)
    assert_alike(state(model), state(plain))


@pytest.mark.full
def test_plans_follow_one_another():
    """Other shards, unwrapped, wrapped again, assigned: each time it goes on."""
    plain, model = seeded(net), seeded(net)
    for each in (plain, model):
        each.compile(O.Adam(0.01), "mse")
        fit(each)  # Slots that are taken over.
    for options in [STAGES, {"replicas": 2, "shard": "optimizer"}, SHARED, None, {**SHARED, "replicas": 3}]:
        if options is None:
            model.unwrap()
        else:
            kparallel.wrap(model, **options)
        assert_alike(fit(model, validation_data=(X, Y)), fit(plain, validation_data=(X, Y)))
        assert_alike(state(model), state(plain))
        assert_alike(model.predict(X, verbose=0), plain.predict(X, verbose=0))
        for each in (plain, model):
            each.layers[0].kernel.assign(2 * each.layers[0].kernel)
            each.optimizer.apply([keras.ops.ones_like(weight) for weight in each.trainable_variables])


def regularized():
    """A penalty of each kernel, one of them with another layer's weight, a frozen layer, and statistics."""
    first = L.Dense(5, activation="tanh", kernel_regularizer="l2")
    near = L.Dense(5, kernel_regularizer=lambda kernel: keras.ops.sum((kernel - first.kernel[:1]) ** 2))
    return keras.Sequential(
        [keras.Input((3,)), first, near, L.BatchNormalization(), L.Dense(4, trainable=False), L.Dense(1)]
    )


@pytest.mark.full
@pytest.mark.parametrize(
    "options",
    [
        {**SHARED, "stages": 2, "microbatches": 2, "schedule": "zb_h1", "recompute": "except_last"},
        {**STAGES, "recompute": "always"},
    ],
)
def test_penalties_frozen_weights_and_schedules(options):
    plain, wrapped = pair(regularized, **options)
    histories = []
    for model in (plain, wrapped):
        model.layers[2].trainable = False  # Each microbatch would be normalized by itself.
        model.compile(O.SGD(0.1, momentum=0.9, global_clipnorm=0.5), "mse")
        histories.append(fit(model))
        model.layers[3].trainable = True  # Unfrozen: its weights get an owner.
        model.compile(O.Adam(0.1), "mse")
        histories[-1] |= {f"again {key}": value for key, value in fit(model).items()}
    assert_alike(histories[1], histories[0])
    assert_alike(state(wrapped), state(plain))
    assert len(wrapped.layers[3].kernel.value.values) == 1


def test_a_replica_without_rows_runs_no_compiled_stage():
    """Its results count nowhere: TensorFlow made a NoOp of the calls, and then looked for a program of that name."""
    plain, model = pair(net, **STAGES)
    for each in (plain, model):
        each.compile(O.SGD(0.1), "mse", jit_compile=True)
        each.fit(X[:1], Y[:1], verbose=0)
    assert_alike(state(model), state(plain))
    assert_alike(model.predict(X[:1], verbose=0), plain.predict(X[:1], verbose=0))


@pytest.mark.full
def test_it_runs_eagerly():
    plain, wrapped = pair(net, **STAGES)
    for model in (plain, wrapped):
        model.compile(O.Adam(0.01), "mse", run_eagerly=True)
        fit(model)
    assert_alike(state(wrapped), state(plain))


class Own(keras.Model):
    """Its call is Python of its own, which uses a layer twice; a layer is frozen."""

    def __init__(self):
        super().__init__()
        self.first, self.again = L.Dense(4, "tanh", kernel_regularizer="l2"), L.Dense(4, "tanh")
        self.frozen, self.head = L.Dense(4, trainable=False), L.Dense(1)

    def call(self, x):
        return self.head(self.frozen(self.again(self.again(self.first(x)))))


class Penalized(Own):
    """Its loss reads a weight."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 2) + keras.ops.sum(self.head.kernel**2)


@pytest.mark.parametrize("build", some([Own, Penalized], Own))
def test_a_model_whose_call_is_its_own(build):
    """All of it is one stage, built by the first batch."""
    results = []
    plain, wrapped = pair(build, **SHARED)
    for model in (plain, wrapped):
        model.compile(O.Adam(0.01, global_clipnorm=0.5), None if build is Penalized else "mse")
        results.append([fit(model, validation_data=(X, Y)), model.predict(X, verbose=0)])
    assert_alike(results[1], results[0])
    assert_alike(state(wrapped), state(plain))
    assert [len(weight.value.values) for weight in wrapped.trainable_weights] == [1] * 6


@pytest.mark.parametrize(
    ("build", "options", "words"),
    [
        (
            net,
            {"replicas": 1, "shard": "weights"},
            "Expected several replicas .*'weights', received 1: nothing is shared",
        ),
        (
            net,
            {"replicas": 2, "shard": "weight"},
            "Expected shard to be 'auto', None, 'optimizer' or 'weights', received",
        ),
        (Own, {**SHARED, "stages": 2}, "Expected a built Functional or Sequential model for 2 stages, received"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(build, options, words):
    with pytest.raises(PlanError, match=words):
        kparallel.plan(build(), **options)


def test_one_program_over_several_machines_is_refused(monkeypatch):
    monkeypatch.setattr("kparallel.model.shared_weights.has_several_machines", lambda: True)
    with pytest.raises(PlanError, match="received one program over several machines, .* without --one-program"):
        kparallel.plan(net(), **SHARED)


def penalized(model):
    return lambda y, outputs: keras.ops.sum((y - outputs) ** 2, -1) + keras.ops.sum(model.layers[0].kernel ** 2)


def test_a_loss_that_reads_weights():
    plain, wrapped = pair(net, **SHARED)
    for model in (plain, wrapped):
        model.compile("sgd", penalized(model))
        fit(model)
    assert_alike(state(wrapped), state(plain))


def test_stages_refuse_a_loss_that_reads_weights():
    model = kparallel.wrap(seeded(net), **STAGES)
    model.compile("sgd", penalized(model))
    with pytest.raises(ModelError, match="outputs alone under stages or microbatches, but they read"):
        fit(model)


def test_the_memory_of_a_device_chooses_the_number_of_stages():
    options = {"shard": "weights", "batch_size": 4, "devices": ["CPU:0", "CPU:1"]}
    plans = [kparallel.plan(net(), memory_per_device=memory, **options) for memory in ("1MB", "2.85kB")]
    assert [plan.mesh.stages for plan in plans] == [1, 4], [plan.reason for plan in plans]
    assert {plan.replicas for plan in plans} == {2} and {plan.shard for plan in plans} == {"weights"}


def test_a_plan_says_what_a_device_holds():
    text = str(kparallel.plan(net(), **SHARED))
    # Half of 99 weights of 8 bytes, and of two slots for each; while the only stage runs, all of its weights.
    assert text.endswith(
        "weights and optimizer shared out over 2 replicas: about 396 B of weights and 792 B of slots on a device "
        "between steps, and up to 792 B of weights that are brought in a step"
    )
