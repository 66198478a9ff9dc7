"""A sharded optimizer: each weight's slots are on one replica, which updates it; the result is that of one device."""

from collections import Counter

import keras
import numpy as np
import pytest

import kparallel
from kparallel.compat.optimizers import slots_by_weight
from kparallel.compat.updates import writing_anew
from kparallel.engine import optimizer_update
from kparallel.errors import ModelError, PlanError
from kparallel.mesh import Mesh
from kparallel.model_variables import bytes_of
from kparallel.planning.plan import LayerGroup, Plan
from tests.assertions import assert_alike, doubles, state
from tests.equality.measure import differences
from tests.equality.tolerances import FLOAT64
from tests.ownstep import measure as own
from tests.ownstep.programs import PROGRAMS
from tests.pairs import pair, seeded
from tests.uneven import fit, net

L = keras.layers
O = keras.optimizers  # noqa: E741
SHARDED = {"replicas": 2, "shard": "optimizer"}


@pytest.fixture(autouse=True)
def _doubles():
    doubles()


def copies_are_equal(model):
    """Whether the replicas hold the same weights."""
    return all(
        np.array_equal(copy.numpy(), variable.value.values[0].numpy())
        for variable in model.weights
        for copy in variable.value.values
    )


def test_owners_stay_when_a_layer_is_frozen_until_the_next_compile():
    """As in plain Keras, whose step goes on as it was traced. Weights of one size may change places."""

    def even():
        return keras.Sequential([keras.Input((3,)), L.Dense(4, activation="tanh"), L.Dense(4), L.Dense(1)])

    plain, parallel = pair(even, **SHARDED)
    for model in (plain, parallel):
        model.compile(O.Adam(0.01), "mse")
        for trainable in (True, False, True):
            model.layers[0].trainable = trainable
            fit(model)
    assert_alike(state(parallel), state(plain))


@pytest.mark.parametrize("make", [O.Adam, O.Muon, lambda: O.SGD(momentum=0.9, use_ema=True), O.Adafactor])
@pytest.mark.parametrize("options", [{"replicas": 3}, {"replicas": 2, "stages": 2}, {"stages": 2, "lanes": 1}])
def test_a_device_holds_an_equal_part_of_the_slots_and_at_most_the_largest_weights_more(make, options):
    if options.get("lanes"):  # Both stages on one device of each replica.
        options = {"replicas": 2, "stages": 2, "devices": ["CPU:0", "CPU:1"]}
    model = kparallel.wrap(seeded(net), shard="optimizer", **options)
    model.compile(make(), "mse")
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()  # Places what has been made since.
    of_weights, of_devices, columns = Counter(), Counter(), {}
    for slot, weight in slots_by_weight(model.optimizer):
        (copy,) = slot.value.values
        column = tuple(each.device for each in weight.value.values)
        assert copy.device in column
        of_weights[weight.path] += bytes_of(slot)
        of_devices[copy.device] += bytes_of(slot)
        columns[weight.path] = column
    for device, held in of_devices.items():
        there = [size for path, size in of_weights.items() if device in columns[path]]
        assert 0 < held <= sum(there) / options["replicas"] + max(there)
    assert len(of_devices) == len({device for column in columns.values() for device in column})


def test_more_replicas_than_weights_and_a_weight_without_a_gradient():
    """An average of the weights, which overwrites them, has the weight without a gradient too."""

    def build():
        x = inputs = keras.Input((3,))
        outputs = L.Dense(1, use_bias=False)(x)
        model = keras.Model(inputs, outputs)
        model.unused = model.add_weight(shape=(2,), initializer="ones", name="unused")
        return model

    models = pair(build, replicas=4, shard="optimizer")
    histories = []
    for model in models:
        model.compile(O.Adam(0.1, use_ema=True, ema_overwrite_frequency=2, global_clipnorm=0.5), "mse")
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            histories.append(fit(model))
        model.unused.assign([2.0, 2.0])
        histories.append(fit(model))
    assert_alike(histories[2:], histories[:2])
    assert_alike(state(models[1]), state(models[0]))
    assert copies_are_equal(models[1]) and 1 < models[1].unused.numpy()[0] < 2


def test_plans_follow_one_another_and_files_are_plain(tmp_path):
    """Sharded or not, unwrapped, wrapped again, saved and loaded into another plan: each time it goes on."""
    plain, model = seeded(net), seeded(net)
    for each in (plain, model):
        each.compile(O.Adam(0.01), "mse")
        fit(each)  # Slots that are taken over.
    for options in [SHARDED, None, {**SHARDED, "stages": 2, "microbatches": 2}, {"replicas": 2}]:
        if options is None:
            model.unwrap()
        else:
            kparallel.wrap(model, **options)
        assert_alike(fit(model), fit(plain))
        assert_alike(state(model), state(plain))
    assert copies_are_equal(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_alike(state(loaded), state(plain))
    kparallel.wrap(loaded, replicas=3, shard="optimizer")
    assert_alike(fit(loaded), fit(plain))
    assert_alike(state(loaded), state(plain))


def test_slots_are_variables_like_others_between_steps():
    plain, wrapped = pair(net, **SHARDED)
    for model in (plain, wrapped):
        model.compile(O.SGD(0.01, momentum=0.9), "mse")
        fit(model)
        slots = [slot for slot, _ in slots_by_weight(model.optimizer)]
        slots[0].assign(2 * slots[0])
        slots[1].assign_add(keras.ops.ones_like(slots[1]))
        model.optimizer.set_weights([variable.numpy() * 0.5 for variable in model.optimizer.variables])
        model.optimizer.learning_rate = 0.02
        fit(model)
        # Plain Keras on the same variables: a step by hand.
        model.optimizer.apply([keras.ops.ones_like(weight) for weight in model.trainable_variables])
    assert_alike(state(wrapped), state(plain))
    assert copies_are_equal(wrapped)


class Interrupt(keras.callbacks.Callback):
    """Ends training within the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "callback",
    [pytest.param(keras.callbacks.BackupAndRestore, marks=pytest.mark.full), kparallel.callbacks.Checkpoint],
)
def test_an_interrupted_fit_goes_on_from_its_files(callback, tmp_path):
    plain, first = pair(net, **SHARDED)
    plain.compile(O.Adam(0.01), "mse")
    history = fit(plain, epochs=2)
    first.compile(O.Adam(0.01), "mse")
    with pytest.raises(KeyboardInterrupt):
        fit(first, epochs=2, callbacks=[callback(str(tmp_path)), Interrupt()])
    second = kparallel.wrap(seeded(net), replicas=3, shard="optimizer")
    second.compile(O.Adam(0.01), "mse")
    found = fit(second, epochs=2, callbacks=[callback(str(tmp_path))])
    assert_alike(found["loss"][-1], history["loss"][-1])
    assert_alike(state(second), state(plain))


def test_a_step_of_ones_own_updates_by_owners():
    want = own.plain("guide")
    found = own.train(
        kparallel.wrap(seeded(PROGRAMS["guide"].model), replicas=3, shard="optimizer"), PROGRAMS["guide"].data()
    )
    assert max(differences(found, want).values()) <= FLOAT64


def test_an_update_in_a_condition_is_refused():
    """The replicas cannot wait there for the owner's weights."""
    with pytest.raises(ModelError, match="received one inside a tf.function, a condition or a loop"):
        model = kparallel.wrap(seeded(PROGRAMS["accumulation"].model), **SHARDED)
        own.train(model, PROGRAMS["accumulation"].data())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replicas": 1, "shard": "optimizer"}, "Expected several replicas .* received 1: nothing is shared out"),
        (
            {"replicas": 2, "shard": "slots"},
            "Expected shard to be 'auto', None, 'optimizer' or 'weights', received 'slots'",
        ),
        ({"replicas": 2, "shard": ["optimizer"]}, "received \\['optimizer'\\]"),
        (
            {"shard": "optimizer", "memory_per_device": "1GB", "batch_size": 8, "devices": ["CPU:0"]},
            "a sharded optimizer needs several replicas",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(options, words):
    with pytest.raises(PlanError, match=words):
        kparallel.plan(net(), **options)


def test_workers_share_out_what_one_replica_on_each_would_hold():
    line = LayerGroup(("a",), 10, 40, largest_bytes=4)
    plan = Plan("line", Mesh((("CPU:0",),)), (line,), workers=5, shard="optimizer")
    assert "shared out over 5 replicas: about 16 B of slots on a device" in str(plan)


def test_one_worker_that_is_left_of_several_holds_all_slots(monkeypatch):
    """`kparallel run -n MIN:MAX` may go on with one."""
    monkeypatch.setenv("KPARALLEL_ELASTIC", "1")
    assert kparallel.plan(net(), replicas=1, shard="optimizer").shard is None
    assert kparallel.plan(net(), **SHARDED).shard == "optimizer"


def test_a_plan_says_what_a_device_holds():
    text = str(kparallel.plan(net(), **SHARDED))
    # Half of two slots of 8 bytes for each of 99 weights, of which 35 are one kernel's.
    assert text.endswith("optimizer shared out over 2 replicas: about 792 B of slots on a device")
    cut = kparallel.plan(net(), replicas=2, stages=2, shard="optimizer", batch_size=8)
    whole = kparallel.plan(net(), replicas=2, stages=2, shard=None, batch_size=8)
    assert cut != whole
    for stage in (0, 1):
        assert whole.memory(stage).slots / 2 <= cut.memory(stage).slots < whole.memory(stage).slots


def test_the_search_counts_the_slots_of_one_owner():
    """What does not fit with all slots on each replica fits with a part of them."""
    options = {"batch_size": 4, "replicas": 2, "stages": 1, "devices": ["CPU:0", "CPU:1"]}
    needed = kparallel.plan(net(), memory_per_device="1GB", **options).reason
    assert needed == "plain data parallelism fits: 3.44 kB of 1 GB on each device"
    with pytest.raises(PlanError, match="Expected a plan that fits"):
        kparallel.plan(net(), memory_per_device="3kB", **options)
    plan = kparallel.plan(net(), memory_per_device="3kB", shard="optimizer", **options)
    assert plan.shard == "optimizer" and "plain data parallelism fits" in plan.reason


def test_owners_write_new_values_of_what_other_replicas_take(monkeypatch):
    """Subtracted in place, a weight whose memory the other replicas have would be copied before each update."""
    written = []

    def noting(optimizer, weights):
        written.append([weight.path for weight in weights])
        return writing_anew(optimizer, weights)

    monkeypatch.setattr(optimizer_update, "writing_anew", noting)
    for shard in ("optimizer", "weights", None):
        written.clear()
        model = kparallel.wrap(keras.Sequential([keras.Input((3,)), L.Dense(2)]), replicas=2, shard=shard)
        model.compile("adam", "mse")
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
        shared = [weight.path for weight in model.weights] if shard == "optimizer" else []
        assert written and all(sorted(each) == sorted(shared) for each in written)
