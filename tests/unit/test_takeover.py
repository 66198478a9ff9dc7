"""`wrap` takes a model over: every handle that its user keeps goes on working, as on one device."""

import copy
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.errors import ModelError
from tests.assertions import assert_alike, doubles
from tests.choice import some

L = keras.layers
O = keras.optimizers  # noqa: E741
RNG = np.random.default_rng(0)
X, Y, CODE = RNG.normal(size=(11, 4)), RNG.normal(size=(11, 1)), RNG.normal(size=(11, 3))
PLANS = {
    "2x1": {"replicas": 2},
    "1x2": {"stages": 2, "microbatches": 2, "devices": ["CPU:1", "CPU:2"]},  # Not where the model was built.
    "2x2": {"replicas": 2, "stages": 2, "microbatches": 2},
}
OPTIMIZERS = {
    "adamw_ema": lambda: O.AdamW(0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=3),
    "accumulating": lambda: O.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "adafactor": lambda: O.Adafactor(0.01),
    "muon": lambda: O.Muon(0.01),
    "scaling": lambda: O.LossScaleOptimizer(O.Adam(0.01)),
    "clipping": lambda: O.RMSprop(0.01, clipnorm=0.1),
}


@pytest.fixture(autouse=True)
def _doubles():
    doubles()


@pytest.fixture(params=["2x2", pytest.param("1x2", marks=pytest.mark.full)])
def plan(request):
    return PLANS[request.param]


def net():
    """A model, and one that shares its first layers."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    code = L.Dense(3, name="code")(L.Dense(5, activation="tanh", name="hidden")(inputs))
    return keras.Model(inputs, L.Dense(1, name="out")(code), name="net"), keras.Model(inputs, code, name="encoder")


def wrapped(model, plan):
    return model if plan is None else kparallel.wrap(model, **plan)


def fit(model, y=Y, epochs=2):
    return model.fit(X, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history


def values(*owners):
    return [variable.numpy() for owner in owners for variable in owner.variables]


def assert_copies_are_equal(*owners):
    for owner in owners:
        for variable in owner.variables:
            first, *others = variable.value.values
            for other in others:
                np.testing.assert_array_equal(first.numpy(), other.numpy(), err_msg=variable.path)


def assert_as_plain(run, plan):
    """Compare what `run` returns of a wrapped model with what it returns of a plain one."""
    assert_alike(run(plan), run(None))


def test_the_model_and_what_it_is_compiled_with_stay_the_users_own_objects(plan):
    model, _ = net()
    optimizer, metric, layers = O.Adam(0.01), keras.metrics.MeanAbsoluteError(), list(model.layers)
    model.compile(optimizer, "mse", metrics=[metric])
    assert kparallel.wrap(model, **plan) is model and isinstance(model, kparallel.ParallelModel)
    history = fit(model)
    assert model.optimizer is optimizer and model.layers == layers
    assert float(metric.result()) == history["mean_absolute_error"][-1]
    optimizer.learning_rate = 0.5
    assert float(model.optimizer.learning_rate) == float(optimizer.learning_rate.value) == 0.5
    assert int(optimizer.iterations) == int(optimizer.iterations.value) == 4
    assert model.unwrap() is model and not isinstance(model, kparallel.ParallelModel)
    assert type(model) is keras.Model or type(model).__name__ == "Functional"
    assert model.optimizer is optimizer and not isinstance(model.variables[0].value, tf.distribute.DistributedValues)


def test_a_model_that_shares_layers_sees_what_is_trained_also_in_functions_traced_before(plan):
    def run(plan):
        model, encoder = net()
        before = encoder.predict(X, verbose=0)
        wrapped(model, plan).compile(O.SGD(0.1), "mse")
        fit(model)
        after = encoder.predict(X, verbose=0)
        assert np.abs(after - before).max() > 1e-3
        return [after, encoder(X).numpy(), *values(model)]

    assert_as_plain(run, plan)


def test_a_traced_function_of_the_users_own_reads_the_present_weights_where_they_stay():
    """On a device that keeps a copy; docs/limits.md says what holds on others."""

    def run(plan):
        model, encoder = net()
        read = tf.function(lambda x: encoder(x))
        read(X)
        wrapped(model, plan).compile(O.SGD(0.1), "mse")
        fit(model)
        between = read(X).numpy()
        if plan:
            model.unwrap()
        fit(model)
        return [between, read(X).numpy()]

    assert_as_plain(run, PLANS["2x1"])


@pytest.mark.parametrize("name", some(OPTIMIZERS, "adamw_ema"))
def test_an_optimizer_with_slots_goes_on_through_wrap_and_unwrap(name):
    def run(plan):
        model, _ = net()
        optimizer = OPTIMIZERS[name]()
        model.compile(optimizer, "mse", metrics=["mae"])
        found = [fit(model)]
        wrapped(model, plan)
        found.append(fit(model))
        if plan:
            assert_copies_are_equal(model, optimizer)
            model.unwrap()
        found.append(fit(model))
        return [values(model, optimizer), *found]

    assert_as_plain(run, PLANS["2x2"])


@pytest.mark.parametrize("name", some(OPTIMIZERS, "accumulating"))
def test_a_plain_model_on_moved_variables_trains_like_any_other(name):
    """By `fit`, by `train_on_batch` and by a tape, in turn with the wrapped one."""

    def run(plan):
        model, encoder = net()
        wrapped(model, plan)
        encoder.compile(OPTIMIZERS[name](), "mse")
        fit(encoder, CODE)
        model.compile(O.SGD(0.1), "mse")
        fit(model)
        encoder.train_on_batch(X, CODE)
        own = OPTIMIZERS[name]()
        for step in (tf.function(by_tape), by_tape):
            own.build(encoder.trainable_variables)
            step(encoder, own)
        if plan:
            assert_copies_are_equal(model)
        return values(model, encoder.optimizer, own)

    assert_as_plain(run, PLANS["2x2"])


def by_tape(model, optimizer):
    with tf.GradientTape() as tape:
        loss = optimizer.scale_loss(tf.reduce_mean((model(X) - CODE) ** 2))
    optimizer.apply_gradients(
        zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
    )


def test_two_wrapped_models_that_share_layers_train_in_turn():
    """A GAN as it is usually written: its critic, wrapped by itself, stands in it frozen."""

    def run(plan):
        keras.utils.set_random_seed(3)
        critic = keras.Sequential([keras.Input((2,)), L.Dense(8, activation="relu"), L.Dense(1)])
        maker = keras.Sequential([keras.Input((3,)), L.Dense(6, activation="tanh"), L.Dense(2)])
        wrapped(critic, plan).compile(O.SGD(0.05, momentum=0.9), "mse")
        critic.trainable = False
        both = wrapped(keras.Model(maker.inputs[0], critic(maker.outputs[0])), plan)
        both.compile(O.SGD(0.05, momentum=0.9), "mse")
        critic.trainable = True
        critic.compile(O.SGD(0.05, momentum=0.9), "mse")
        rng = np.random.default_rng(1)
        for _ in range(3):
            noise, real = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
            made = maker.predict(noise, verbose=0)
            critic.train_on_batch(np.concatenate([real, made]), np.r_[np.ones((7, 1)), np.zeros((7, 1))])
            both.train_on_batch(noise, np.ones((7, 1)))
        return values(critic, maker)

    assert_as_plain(run, PLANS["2x1"])


def test_a_wrapped_model_is_laid_out_anew_by_another_plan(plan):
    def run(plans):
        model, _ = net()
        model.compile(O.SGD(0.05, momentum=0.9), "mse")
        for each in plans:
            fit(wrapped(model, each), epochs=1)
        return values(model, model.optimizer)

    assert_alike(run([None, PLANS["2x2"], plan, PLANS["2x1"]]), run([None] * 4))


@pytest.mark.parametrize(
    "act", some(["call", "build", "build one layer", "evaluate", "predict"], "build one layer", "predict")
)
def test_what_is_built_after_wrap_is_placed(act):
    def run(plan):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([L.Dense(5, activation="tanh"), L.Dense(1)])
        model = wrapped(model, plan)
        model.compile(O.SGD(0.05, momentum=0.9), "mse")
        if act == "build one layer":
            model.layers[0].build((None, 4))
        else:
            {"call": model, "build": lambda x: model.build(x.shape), "predict": model.predict_on_batch}.get(
                act, lambda x: model.evaluate(x, Y, verbose=0)
            )(X)
        return [fit(model), values(model, model.optimizer)]

    assert_as_plain(run, PLANS["2x1"])


class Outer(keras.Model):
    """Not built itself, it holds a model that is; its constructor takes no `**kwargs`, as tutorials write it."""

    def __init__(self, width):
        super().__init__()
        keras.utils.set_random_seed(3)
        self.inner, self.top = keras.Sequential([keras.Input((4,)), L.Dense(width)]), L.Dense(1)

    def call(self, inputs):
        return self.top(self.inner(inputs))


@pytest.mark.parametrize("build", [lambda: Outer(3), lambda: lambda: Outer(3)], ids=["model", "builder"])
def test_an_unbuilt_model_that_holds_a_built_one(build):
    def run(plan):
        model = wrapped(build(), plan) if plan else Outer(3)
        model.compile(O.SGD(0.05, momentum=0.9), "mse")
        return [fit(model), values(model)]

    assert_as_plain(run, PLANS["2x1"])


def test_a_layer_frozen_before_it_is_built_stays_frozen():
    def run(plan):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([L.Dense(5, activation="tanh"), L.Dense(1)])
        model.layers[0].trainable = False
        model = wrapped(model, plan)
        model.compile(O.SGD(0.05, momentum=0.9), "mse")
        fit(model)
        assert len(model.trainable_variables) == 2
        return values(model)

    assert_as_plain(run, PLANS["2x1"])


class Nested(O.Optimizer):
    """Gives each weight to an optimizer of its own, made when it is first applied."""

    def __init__(self):
        super().__init__(0.1)

    def build(self, variables):
        super().build(variables)
        self.groups = {"all": [(O.SGD(0.1, momentum=0.9), [variable]) for variable in variables]}
        for optimizer, group in self.groups["all"]:
            optimizer.build(group)

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(trainable_variables)
        for grad, (optimizer, group) in zip(grads, self.groups["all"], strict=True):
            optimizer.apply([grad], group)


def test_optimizers_inside_an_optimizer_do_not_sum_again(plan):
    def run(plan):
        model, _ = net()
        wrapped(model, plan).compile(Nested(), "mse")
        return [fit(model), values(model)]

    assert_as_plain(run, plan)


class Halving(O.schedules.LearningRateSchedule):
    """Neither registered nor with a config."""

    def __call__(self, step):
        return 0.1 * 0.5 ** keras.ops.cast(step, "float64")


@pytest.mark.parametrize("rate", [Halving, lambda: lambda: 0.05], ids=["schedule", "function"])
def test_learning_rates_without_a_config(rate):
    def run(plan):
        model, _ = net()
        model.compile(O.SGD(rate()), "mse")
        return [fit(wrapped(model, plan)), values(model)]

    assert_as_plain(run, PLANS["2x1"])


def test_a_submodel_of_a_wrapped_sequential_has_a_gradient(plan):
    def run(plan):
        keras.utils.set_random_seed(3)
        model = wrapped(keras.Sequential([keras.Input((4,)), L.Dense(5, name="hidden"), L.Dense(1)]), plan)
        both = keras.Model(model.inputs[0], [model.get_layer("hidden").output, *model.outputs])
        with tf.GradientTape() as tape:
            hidden, out = both(X)
        return [tape.gradient(out, hidden).numpy()]

    assert_as_plain(run, plan)


@pytest.mark.full
def test_compile_and_a_new_function_within_fit():
    class Recompiling(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.compile(O.SGD(0.05 / (1 + epoch)), "mae")
            self.model.make_train_function(force=True)

    def run(plan):
        model, _ = net()
        wrapped(model, plan).compile(O.SGD(0.05, momentum=0.9), "mse")
        return [model.fit(X, Y, epochs=3, verbose=0, callbacks=[Recompiling()]).history, values(model)]

    assert_as_plain(run, PLANS["2x2"])


@pytest.mark.full
def test_another_model_is_wrapped_within_the_fit_of_a_plain_one_that_shares_layers():
    def run(plan):
        model, encoder = net()

        class Encodes(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch < 2:
                    wrapped(encoder, plan).compile(O.SGD(0.05, momentum=0.9), "mse")
                    fit(encoder, CODE, epochs=1)
                elif plan and epoch == 2:
                    encoder.unwrap()

        model.compile(O.SGD(0.05, momentum=0.9), "mse")
        history = model.fit(X, Y, epochs=4, shuffle=False, verbose=0, callbacks=[Encodes()]).history
        return [history, values(model)]

    assert_as_plain(run, PLANS["2x1"])


@pytest.mark.parametrize("act", [lambda model: model.unwrap(), lambda model: kparallel.wrap(model, replicas=3)])
def test_a_model_at_work_is_neither_unwrapped_nor_laid_out_anew(act):
    model, _ = net()
    kparallel.wrap(model, replicas=2).compile(O.SGD(0.1), "mse")
    within = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: act(model))
    with pytest.raises(ModelError, match="not at work"):
        model.fit(X, Y, verbose=0, callbacks=[within])
    fit(model)
    assert_copies_are_equal(model)
    act(model)


def test_what_a_class_records_in_its_own_compile_is_kept():
    class Sampling(keras.Model):
        def compile(self, *args, sampler=None, **kwargs):
            super().compile(*args, **kwargs)
            self.sampler = sampler

    inputs = keras.Input((4,))
    model = Sampling(inputs, L.Dense(1)(inputs))
    model.compile("sgd", "mse", sampler="greedy")
    kparallel.wrap(model, replicas=2)
    assert model.sampler == "greedy"
    model.compile("sgd", "mse", sampler="beam")
    assert model.sampler == "beam" and np.isfinite(fit(model)["loss"]).all()


def test_a_deep_copy_of_a_layer_is_plain(plan):
    model, _ = net()
    original = wrapped(model, plan).layers[1]
    twin = copy.deepcopy(original)
    assert_alike(values(twin), values(original))
    twin.kernel.assign(twin.kernel + 1)
    assert np.abs(twin.kernel.numpy() - original.kernel.numpy()).min() > 0.5


@pytest.mark.full
def test_ordinary_use_warns_of_no_retracing(caplog):
    for rows in range(3, 10):
        model, _ = net()
        wrapped(model, PLANS["2x2"]).compile(O.SGD(0.1), "mse")
        model.fit(X[:rows], Y[:rows], verbose=0)
        model.predict(X[:rows], verbose=0)
    assert "retracing" not in caplog.text


# What cannot be taken over leaves the model as it was.


def test_a_model_of_a_strategy_of_the_users_own_is_refused():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model, _ = net()
    with pytest.raises(ModelError, match="MirroredStrategy"):
        kparallel.wrap(model, replicas=2)
    assert not isinstance(model, kparallel.ParallelModel)


def test_layers_that_lie_elsewhere_are_refused_until_the_other_model_lets_go():
    model, encoder = net()
    kparallel.wrap(model, stages=2, devices=["CPU:1", "CPU:2"])
    before = values(encoder)
    with pytest.raises(ModelError, match="'net', which is wrapped and holds 'hidden/kernel'"):
        kparallel.wrap(encoder, replicas=2)
    assert not isinstance(encoder, kparallel.ParallelModel)
    encoder.compile(O.SGD(0.1), "mse")
    fit(encoder, CODE)
    assert np.abs(values(encoder)[0] - before[0]).max() > 1e-4
    model.unwrap()
    kparallel.wrap(encoder, replicas=2)
    fit(encoder, CODE)
    assert_copies_are_equal(encoder)


def test_a_model_that_nobody_holds_any_more_does_not_hold_its_layers():
    model, encoder = net()
    kparallel.wrap(model, stages=2, devices=["CPU:1", "CPU:2"])
    del model
    gc.disable()
    try:
        kparallel.wrap(encoder, replicas=2)
    finally:
        gc.enable()
    assert_copies_are_equal(encoder)


def test_a_wrapped_model_inside_another_keeps_its_devices():
    model, encoder = net()
    kparallel.wrap(encoder, replicas=2)
    kparallel.wrap(model, replicas=2)
    for each, y in ((model, Y), (encoder, CODE)):
        each.compile(O.SGD(0.1), "mse")
        fit(each, y)
    encoder.unwrap()  # The model still holds them.
    fit(model)
    fit(encoder, CODE)
    assert_copies_are_equal(model)


def test_a_builder_that_returns_the_same_model_twice_lays_it_out_anew():
    model, _ = net()
    model.compile(O.SGD(0.1), "mse")
    assert kparallel.wrap(lambda: model, replicas=2) is model
    assert kparallel.wrap(lambda: model, replicas=3) is model and model.plan.mesh.replicas == 3
    assert np.isfinite(fit(model)["loss"]).all()


def test_a_wrap_that_fails_half_way_leaves_the_model_as_it_was():
    """The last variable cannot be moved, when all others have been."""
    model, encoder = net()
    model.compile(O.SGD(0.1), "mse")
    fit(model)
    before = values(model)
    broken = model.variables[-1]
    kept, broken._value = broken._value, object()  # What stands in for a device that runs out of memory.
    with pytest.raises(AttributeError):
        kparallel.wrap(model, replicas=2)
    broken._value = kept
    assert type(model).__name__ == "Functional" and not hasattr(model, "plan")
    assert not any(isinstance(v.value, tf.distribute.DistributedValues) for v in model.variables)
    assert_alike(values(model), before)
    fit(model)
    assert np.abs(values(model)[0] - before[0]).max() > 1e-4
    kparallel.wrap(model, replicas=2)
    fit(model)
    assert_copies_are_equal(model)


class Final(keras.Model):
    """Takes no subclasses."""

    def __init__(self):
        super().__init__()
        self.top = L.Dense(1)

    def __init_subclass__(cls, **kwargs):
        raise TypeError("final")

    def call(self, inputs):
        return self.top(inputs)


def test_a_class_that_takes_no_subclasses_leaves_its_model_as_it_was():
    model = Final()
    model(X)
    with pytest.raises(TypeError, match="final"):
        kparallel.wrap(model, replicas=2)
    assert not any(isinstance(v.value, tf.distribute.DistributedValues) for v in model.variables)


class Placed(keras.Model):
    """Its layers get devices of their own: its call is Python of its own."""

    def __init__(self, first):
        super().__init__()
        self.first, self.top = first, L.Dense(1, name="top")

    def call(self, inputs):
        return self.top(self.first(inputs))


def test_models_whose_layers_have_devices_share_them_and_keep_a_call_of_their_own():
    first = L.Dense(3, name="first")
    own = L.Dense.call
    first.call = lambda inputs, training=None: 2.0 * own(first, inputs)
    models = [Placed(first), Placed(first)]
    for model in models:
        model(X)
    want = models[1].predict(X, verbose=0)
    for model in models:
        kparallel.wrap(model, stages={"CPU:1": ["first"], "CPU:2": ["top"]})
    models[0].unwrap()
    assert_alike(models[1].predict(X, verbose=0), want)
    models[1].unwrap()
    assert_alike(models[1].predict(X, verbose=0), want)
