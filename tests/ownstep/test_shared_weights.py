"""Steps and loops of one's own with weights that their owners alone hold between steps."""

import functools

import keras
import pytest
import tensorflow as tf

import kparallel
from kparallel.compat.optimizers import slots_by_weight
from kparallel.errors import ModelError
from kparallel.model_variables import bytes_of, optimizers_of
from kparallel.planning.report import format_bytes
from tests.choice import some
from tests.equality.measure import differences, use
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import plain, train, wrapped
from tests.ownstep.programs import PROGRAMS, Guide, mlp, regressed
from tests.ownstep.resumed import Failing
from tests.ownstep.test_loop import trained_in_a_loop
from tests.pairs import seeded

SHARED = {"shard": "weights"}
# One that updates in a condition is refused, as with `shard="optimizer"`.
NAMES = [name for name in PROGRAMS if name != "accumulation"]
# Several optimizers; weights that the step assigns; none that an optimizer updates.
CHOSEN = [("adversaries", 3), ("sharpness_aware", 2), ("by_hand", 2)]


def assert_no_difference(found, want):
    assert not {
        entry: difference for entry, difference in differences(found, want).items() if not difference <= FLOAT64
    }


@pytest.mark.parametrize(
    ("name", "replicas"), some([(name, replicas) for name in NAMES for replicas in (2, 3)], *CHOSEN)
)
def test_a_step_of_ones_own_equals_plain_keras(name, replicas):
    assert_no_difference(wrapped(name, replicas, **SHARED), plain(name))


def contents(model):
    """Return the bytes of weights and slots that each device holds between steps, and those of each weight."""
    slots = [pair for optimizer in optimizers_of(model) for pair in slots_by_weight(optimizer)]
    held, sizes = {}, {id(weight): bytes_of(weight) for weight in model.trainable_weights}
    for slot, weight in slots:
        sizes[id(weight)] += bytes_of(slot)
    for variable in [*model.trainable_weights, *(slot for slot, _ in slots)]:
        (copy,) = variable.value.values
        held[copy.device] = held.get(copy.device, 0) + bytes_of(variable)
    return held, sizes


def test_a_device_holds_an_equal_part_between_steps():
    use("float64")
    model = kparallel.wrap(seeded(PROGRAMS["adversaries"].model), replicas=2, **SHARED)
    train(model, PROGRAMS["adversaries"].data())
    held, sizes = contents(model)
    assert len(held) == 2 and max(held.values()) <= sum(sizes.values()) / 2 + max(sizes.values())


def several(run_eagerly=False):
    """Accumulates, clips and averages, in an optimizer for each of two parts; a layer is frozen."""

    class Model(Guide):
        def compile(self, **options):
            super().compile(keras.optimizers.Adam(0.01, global_clipnorm=0.1, gradient_accumulation_steps=2), **options)
            self.other = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=2)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            first, second = self.trainable_weights[:2], self.trainable_weights[2:]
            gradients, others = tape.gradient(loss, (first, second))
            self.optimizer.apply(gradients, first)
            self.other.apply(others, second)
            return {"loss": loss, "first": tf.reduce_sum(first[0])}

    model = Model(mlp(8, 7, 5, 1))
    model.net.layers[1].trainable = False
    model.compile(loss="mse", run_eagerly=run_eagerly)
    return model


@pytest.mark.parametrize("run_eagerly", some([False, True], False))
def test_several_optimizers(run_eagerly):
    use("float64")
    results = []
    for options in (None, {"replicas": 2, **SHARED}):
        model = seeded(functools.partial(several, run_eagerly))
        model = model if options is None else kparallel.wrap(model, **options)
        results.append(train(model, regressed(), validation_data=tuple(regressed().values())))
    assert_no_difference(*results[::-1])


@pytest.mark.full
def test_a_failed_fit_goes_on_from_a_checkpoint(tmp_path):
    program = PROGRAMS["adversaries"]
    want = plain("adversaries")
    first = kparallel.wrap(seeded(program.model), replicas=2, **SHARED)
    with pytest.raises(ArithmeticError):
        train(
            first, program.data(), callbacks=[kparallel.callbacks.Checkpoint(tmp_path / "it", every_steps=2), Failing()]
        )
    second = kparallel.wrap(seeded(program.model), replicas=3, **SHARED)
    found = train(second, program.data(), callbacks=[kparallel.callbacks.Checkpoint(tmp_path / "it", every_steps=2)])
    assert_no_difference(found, want)


def test_an_update_in_a_condition_is_refused():
    with pytest.raises(ModelError, match="received one inside a tf.function, a condition or a loop"):
        wrapped("accumulation", 2, **SHARED)


@pytest.mark.parametrize(
    ("held", "compiled"),
    some([(held, compiled) for held in (True, False) for compiled in (True, False)], (True, True), (True, False)),
)
def test_a_loop_of_ones_own_equals_one_device(held, compiled):
    models = []

    def strategy(model):
        models.append(kparallel.wrap(model, replicas=2, **SHARED))
        return models[0].distribute_strategy

    results = [trained_in_a_loop(each, compiled, held) for each in (lambda _: None, strategy)]
    assert_no_difference(*results[::-1])
    assert [len(weight.value.values) for weight in models[0].trainable_weights] == [1] * 4


def test_a_function_that_was_traced_before_weights_moved_fails():
    """It would read what they were then."""
    use("float64")
    model = kparallel.wrap(seeded(lambda: mlp(8, 1)), replicas=2, **SHARED)
    x = tf.constant(regressed()["x"])
    function = tf.function(lambda: model.distribute_strategy.run(lambda: model(x)))
    function()
    kparallel.wrap(model, devices=["CPU:2", "CPU:3"], **SHARED)
    with pytest.raises(tf.errors.InvalidArgumentError):
        function()


@pytest.mark.parametrize("run_eagerly", some([False, True], False))
def test_a_variable_with_an_old_value_is_refused(run_eagerly):
    class Model(Guide):
        def train_step(self, data):
            return super().train_step(data) | {"size": tf.reduce_sum(self.options["old"])}

    use("float64")
    net = mlp(8, 1)
    model = kparallel.wrap(Model(net, old=net.layers[0].kernel.value), devices=["CPU:2", "CPU:3"], **SHARED)
    model.compile("sgd", "mse", run_eagerly=run_eagerly)
    with pytest.raises(ModelError, match="Expected a step to read weights by the layers .* '.*dense.*kernel'"):
        train(model, regressed())


def test_a_plan_counts_what_is_built_of_a_model():
    """A model that is not built may hold layers that are, as a GAN does."""
    use("float64")
    model = seeded(PROGRAMS["adversaries"].model)
    size = sum(map(bytes_of, model.trainable_weights))
    text = str(kparallel.plan(model, replicas=2, **SHARED)).splitlines()[-1]
    assert not model.built and size and f"up to {format_bytes(size)} of weights that are brought in a step" in text
    text = str(kparallel.plan(keras.Sequential([keras.layers.Dense(1)]), replicas=2, **SHARED))
    assert text.endswith("shared out over 2 replicas: the model has no weights yet")
