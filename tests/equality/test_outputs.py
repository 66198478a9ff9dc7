"""What else than `fit` a wrapped model computes: `evaluate`, `predict` and single batches, as the plain one does."""

import keras
import numpy as np
import pytest

import kparallel
from tests.choice import all_but
from tests.equality.cases import CASES
from tests.equality.measure import build, differences, use
from tests.equality.plans import PLANS
from tests.equality.tolerances import FLOAT64
from tests.pairs import pair

# One of each kind of model, target, weight and mask, under a plan that it can be laid out in.
SOME = {
    "adam": "2x2_gpipe_recompute",
    "dict_of_weights": "2x2_gpipe_recompute",
    "list_of_losses": "1x2_1f1b",
    "mask_and_weights": "1x2_1f1b",
    "lstm": "3x1",
    "shares_without_weight": "3x1",
    "regularizers_and_weights": "2x2_gpipe_recompute",
    "add_loss_in_two_stages": "1x2_1f1b",
    "dice": "2x1_microbatches",
    "scalar_loss_and_weights": "3x1",
    "metrics": "2x2_gpipe_recompute",
    "synchronized": "3x1",
    "subclassed": "3x1",
}
# Batches of 7, 7, 7 and 1 row: the last leaves replicas without rows.
BATCH = 7


def outputs(model, case):
    model.compile(**case.compile())
    x, y, *weight = case.data()
    given = {"sample_weight": weight[0]} if weight else {}
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **given)
    found = {"evaluate": model.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True, **given)}
    found["predict"] = model.predict(x, batch_size=BATCH, verbose=0)
    some = keras.tree.map_structure(lambda array: array[:4], (x, y, given))
    model.reset_metrics()
    found["train_on_batch"] = model.train_on_batch(*some[:2], return_dict=True, **some[2])
    found["test_on_batch"] = model.test_on_batch(*some[:2], return_dict=True, **some[2])
    found["predict_on_batch"] = model.predict_on_batch(some[0])
    found["weights"] = model.get_weights()
    named = keras.tree.flatten_with_path(found)
    return {"/".join(map(str, path)): np.asarray(value) for path, value in named}


LEFT = (
    "dict_of_weights",
    "lstm",
    "regularizers_and_weights",
    "add_loss_in_two_stages",
    "dice",
    "metrics",
    "list_of_losses",
    "adam",
    "scalar_loss_and_weights",
    "synchronized",
)


@pytest.mark.parametrize("name", all_but(SOME, *LEFT))
def test_outputs_equal_those_of_the_plain_model(name):
    use("float64")
    case = CASES[name]
    want = outputs(build(case), case)
    found = differences(outputs(kparallel.wrap(build(case), **PLANS[SOME[name]]), case), want)
    far = {entry: difference for entry, difference in found.items() if not difference <= FLOAT64}
    assert not far, far


L = keras.layers
ROWS = 9


def numbers(*shape):
    return np.random.default_rng(len(shape)).normal(size=(ROWS, *shape))


def dense(units):
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(units)(L.Dense(5, activation="tanh")(inputs)))


def certain(units, activation):
    return keras.Sequential([keras.Input((4,)), L.Dense(5), L.Dense(units, activation=activation)])


def one_number():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.ops.sum(L.Dense(3)(L.Dense(5)(inputs)), axis=-1))


def masked():
    return keras.Sequential([keras.Input((3, 4)), L.Masking(), L.Dense(2)])


def mean_error(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


class RunningMean(L.Layer):
    """Takes off the mean that it has just updated, through which Keras gives no gradient."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(x, axis=0))
        return x - self.mean


def with_running_mean():
    return keras.Sequential([keras.Input((4,)), L.Dense(5), RunningMean(), L.Dense(3)])


def in_batch(y_true, y_pred):
    """Return for each row how far the other rows' targets are from its prediction."""
    logits = keras.ops.matmul(y_pred, keras.ops.transpose(y_true))
    labels = keras.ops.arange(keras.ops.shape(logits)[0])
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def mean_of_crossentropy(y_true, y_pred):
    return keras.ops.mean(keras.losses.binary_crossentropy(y_true, y_pred))


# Predictions so certain that a crossentropy of probabilities is clipped: Keras reads the logits behind them.
CERTAIN = 200 * numbers(4)
LABELS = (numbers(1) > 0).astype("float64")
PIPELINE = {"replicas": 2, "stages": 2, "microbatches": 2}
# name: (model, x, y, compile arguments, arguments of wrap)
LOSSES_AND_METRICS = {
    "certain": (
        lambda: certain(1, "sigmoid"),
        CERTAIN,
        LABELS,
        lambda: {"loss": "binary_crossentropy", "metrics": [keras.metrics.BinaryCrossentropy(name="metric")]},
        PIPELINE,
    ),
    "certain_of_classes": (
        lambda: certain(3, "softmax"),
        CERTAIN,
        LABELS,
        lambda: {"loss": "sparse_categorical_crossentropy"},
        {"replicas": 2},
    ),
    "certain_gathered": (
        lambda: certain(1, "sigmoid"),
        CERTAIN,
        LABELS,
        lambda: {"loss": mean_of_crossentropy, "metrics": [mean_of_crossentropy]},
        {**PIPELINE, "loss_reduction": "global"},
    ),
    "rows_compared": (
        lambda: dense(3),
        numbers(4),
        numbers(3),
        lambda: {"loss": in_batch},
        {**PIPELINE, "loss_reduction": "global"},
    ),
    "similarity_of_columns": (
        lambda: dense(3),
        numbers(4),
        numbers(3),
        lambda: {
            "loss": keras.losses.CosineSimilarity(axis=-2, reduction=None),
            "metrics": [keras.metrics.CosineSimilarity(axis=-2, name="metric")],
        },
        {"replicas": 2},
    ),
    "one_number_a_row": (
        one_number,
        numbers(4),
        numbers(),
        lambda: {"loss": "mse", "metrics": ["mae"]},
        {"replicas": 2},
    ),
    "one_number_a_row_summed": (
        one_number,
        numbers(4),
        numbers(),
        lambda: {"loss": keras.losses.CategoricalHinge(), "metrics": [keras.metrics.CosineSimilarity()]},
        {"replicas": 2},
    ),
    "one_number_of_a_mask": (
        masked,
        np.where(np.arange(ROWS * 3).reshape(ROWS, 3, 1) % 4 > 1, numbers(3, 4), 0.0),
        numbers(3, 2),
        lambda: {"loss": mean_error},
        {"replicas": 2, "microbatches": 2},
    ),
    "assigned_in_call": (with_running_mean, numbers(4), numbers(3), lambda: {"loss": "mse"}, {"replicas": 1}),
    "adafactor_compiled": (
        lambda: dense(3),
        numbers(4),
        numbers(3),
        lambda: {"optimizer": keras.optimizers.Adafactor(0.01), "loss": "mse", "jit_compile": True},
        PIPELINE,
    ),
}


@pytest.mark.parametrize(
    "name",
    all_but(
        LOSSES_AND_METRICS, "adafactor_compiled", "certain_gathered", "similarity_of_columns", "certain_of_classes"
    ),
)
def test_losses_and_metrics_equal_those_of_the_plain_model(name):
    use("float64")
    make, x, y, arguments, options = LOSSES_AND_METRICS[name]
    plain, wrapped = pair(make, **options)
    for model in (plain, wrapped):
        model.compile(**{"optimizer": keras.optimizers.SGD(0.001), **arguments()})
        model.fit(x, y, batch_size=5, epochs=2, shuffle=False, verbose=0)
    results = [
        (m.history.history, m.evaluate(x, y, batch_size=5, verbose=0), m.get_weights()) for m in (wrapped, plain)
    ]
    for one, other in zip(*map(keras.tree.flatten, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT64)
