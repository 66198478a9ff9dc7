"""What layers assign in their calls: state in `fit`, `evaluate` and `predict`, weights, and metrics of their own."""

import keras
import numpy as np
import pytest

import kparallel
from tests.choice import some
from tests.equality import models as m
from tests.equality.measure import use
from tests.equality.plans import PLANS, plans
from tests.equality.tolerances import FLOAT64

L = keras.layers
ops = keras.ops
SOME = plans("2x1", "3x1", "2x1_microbatches", "1x2_1f1b", "2x2_gpipe_recompute", default=("2x2_gpipe_recompute",))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(11, 4)), RNG.normal(size=(11, 4))


@pytest.fixture(autouse=True)
def _double():
    use("float64")


def made(build, plan=None, loss="mse"):
    keras.utils.set_random_seed(0)
    model = build()
    model = kparallel.wrap(model, **PLANS[plan]) if plan else model
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def state(model):
    return [variable.numpy() for layer in (model, *model.layers) for variable in layer.variables]


def assert_alike(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("plan", [*SOME, *plans("1x1")])
@pytest.mark.parametrize("build", [m.observed, m.masked_kernels])
def test_predict_and_evaluate_leave_what_plain_keras_leaves(build, plan):
    results = []
    for model in (made(build, loss="mae"), made(build, plan, loss="mae")):
        got = [model.predict(X, batch_size=4, verbose=0), model.evaluate(X, Y[:, :3], batch_size=7, verbose=0)]
        results.append([*got, *state(model)])
    assert_alike(results[1], results[0])


@keras.saving.register_keras_serializable("kparallel_tests")
class Draws(L.Dropout):
    """Drops out whatever it is called for."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def drawing():
    return keras.Sequential([keras.Input((4,)), Draws(0.5, seed=1), L.Dense(4, kernel_initializer="identity")])


def test_predict_draws_as_plain_keras_draws():
    ones = np.ones((8, 4))
    for plan in ("1x1", "1x2"):
        plain, wrapped = made(drawing), made(drawing, plan)
        for _ in range(2):
            assert_alike(*([model.predict(ones, batch_size=3, verbose=0)] for model in (wrapped, plain)))
        assert_alike(state(wrapped), state(plain))


@pytest.mark.parametrize("plan", SOME)
def test_predict_draws_anew_for_every_part_and_batch(plan):
    ones = np.ones((12, 4))
    plain, wrapped = made(drawing), made(drawing, plan)
    drawn = [wrapped.predict(ones, batch_size=6, verbose=0) for _ in range(2)]
    assert_alike(*([model.layers[0].seed_generator.state.numpy()[:1]] for model in (wrapped, plain)))
    if PLANS[plan].get("microbatches", 1) == 1:  # Else each microbatch draws, where plain Keras draws once.
        for _ in range(2):
            plain.predict(ones, batch_size=6, verbose=0)
        assert_alike(*([model.layers[0].seed_generator.state.numpy()] for model in (wrapped, plain)))
    parts = [part for predicted in drawn for batch in np.split(predicted, 2) for part in np.split(batch, 2)]
    assert len({part.tobytes() for part in parts}) == len(parts)


@keras.saving.register_keras_serializable("kparallel_tests")
class Assigns(L.Dense):
    """Assigns its kernel what depends on the rows, or is random."""

    def __init__(self, units, kind, **kwargs):
        super().__init__(units, **kwargs)
        self.kind, self.seeds = kind, keras.random.SeedGenerator(1)

    def call(self, inputs, training=None):
        factor = ops.cast(ops.shape(inputs)[0], inputs.dtype) if self.kind == "count" else ops.mean(inputs)
        if self.kind == "random":
            factor = keras.random.uniform((), seed=self.seeds)
        self.kernel.assign(self.kernel * (1.0 + 0.01 * factor))
        return super().call(inputs)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@pytest.mark.parametrize("kind", some(["mean", "count", "random"], "mean"))
def test_a_weight_assigned_what_parts_do_not_have_alike_is_refused(kind):
    def build():
        return keras.Sequential([keras.Input((4,)), Assigns(4, kind), L.Dense(4)])

    plain, one = made(build), made(build, "1x2")
    for model in (plain, one):
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_alike(state(one), state(plain))
    for plan in ("2x1", "1x2_1f1b"):
        with pytest.raises(kparallel.errors.ModelError, match=r"kernel'.*depends on the batch's rows or is random"):
            made(build, plan).fit(X, Y, batch_size=6, verbose=0)


@pytest.mark.parametrize("layer", [m.Observer, lambda: m.Masked(4)])
def test_what_is_assigned_by_a_layer_of_two_stages_is_refused(layer):
    def build():
        shared, inputs = layer(), keras.Input((4,))
        return keras.Model(inputs, shared(L.Dense(4)(shared(inputs))))

    model = made(build)
    model = kparallel.wrap(model, replicas=1, stages=2)
    model.compile("sgd", "mse")
    with pytest.raises(kparallel.errors.PlanError, match="to be called in one stage"):
        model.fit(X, Y, verbose=0)


@keras.saving.register_keras_serializable("kparallel_tests")
class Tracks(L.Layer):
    """Updates metrics of its own, with rows and with numbers of a batch."""

    def __init__(self, more=None, **kwargs):
        super().__init__(**kwargs)
        self.of_rows = keras.metrics.Mean(name="rows")
        self.of_batch = keras.metrics.Mean(name="batch")
        self.sum = keras.metrics.Sum(name="sum")
        self.error = keras.metrics.MeanAbsoluteError(name="error")
        self.of_numbers = keras.metrics.MeanSquaredError(name="numbers")
        self.precision = keras.metrics.Precision(name="precision")
        self.more = more

    def call(self, inputs):
        self.of_rows.update_state(inputs)
        self.of_batch.update_state(2.0 * ops.mean(inputs) + 1.0)
        self.sum.update_state(inputs[:, 0])
        self.error.update_state(inputs, ops.tanh(inputs), sample_weight=inputs[:, 1] ** 2)
        self.of_numbers.update_state(inputs[:, 0], inputs[:, 1])
        self.precision.update_state(ops.cast(inputs > 0, "int32"), ops.sigmoid(inputs - 0.3))
        if self.more:
            self.of_batch.update_state(ops.std(inputs))
        return inputs

    def get_config(self):
        return {**super().get_config(), "more": self.more}


def tracking(more=None):
    return keras.Sequential([keras.Input((4,)), L.Dense(4, activation="tanh"), Tracks(more), L.Dense(4)])


@pytest.mark.parametrize("plan", [*SOME, *plans("1x1")])
def test_metrics_that_a_layer_updates(plan):
    results = []
    for model in (made(tracking), made(tracking, plan)):
        history = model.fit(X, Y, batch_size=4, epochs=2, validation_split=0.3, shuffle=False, verbose=0).history
        found = model.evaluate(X, Y, batch_size=7, verbose=0, return_dict=True)
        model.predict(X[:5], verbose=0)
        left = [variable.numpy() for metric in model.layers[1]._metrics for variable in metric.variables]
        results.append((history, found, left))
    (history, found, left), (want_history, want_found, want) = reversed(results)
    assert sorted(want_history) == sorted(history) and {"rows", "batch", "val_precision"} <= set(history)
    assert_alike([history[key] for key in sorted(history)], [want_history[key] for key in sorted(history)])
    assert_alike([found[key] for key in sorted(found)], [want_found[key] for key in sorted(want_found)])
    assert_alike(left, want)


@pytest.mark.full
def test_a_metric_that_a_layer_updates_with_what_parts_do_not_tell_is_refused():
    made(lambda: tracking(True), "1x2").fit(X, Y, verbose=0)
    for plan in ("2x1", "1x2_1f1b"):
        with pytest.raises(kparallel.errors.ModelError, match="Metric 'batch' is updated in a layer's call"):
            made(lambda: tracking(True), plan).fit(X, Y, verbose=0)
