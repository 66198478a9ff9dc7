"""The law over every public metric of Keras, all of them in one model."""

import inspect

import keras
import pytest

from tests.catalogue.deviations import METRICS
from tests.catalogue.heads import CLASSES, classes_of, functions, head, inputs, single, target, weights
from tests.catalogue.measure import PLANS, beyond, trained
from tests.catalogue.public import public

L, M = keras.layers, keras.metrics
# TensorFlow looks for the top k in float32 alone.
SINGLE = {
    "probabilities_in_single": ["TopKCategoricalAccuracy", "top_k_categorical_accuracy"],
    "labels_in_single": ["SparseTopKCategoricalAccuracy", "sparse_top_k_categorical_accuracy"],
}
OF_KIND = SINGLE | {
    "labels": [
        "SparseCategoricalAccuracy",
        "SparseCategoricalCrossentropy",
        "sparse_categorical_accuracy",
        "sparse_categorical_crossentropy",
    ],
    "classes": ["Accuracy", "IoU", "MeanIoU"],
    "binary": ["AUC", "BinaryAccuracy", "BinaryCrossentropy", "BinaryIoU"],
}
KINDS = ("probabilities", *OF_KIND)
# Those that take arguments.
RECIPES = {
    "BinaryIoU": {"dtype": "float64"},
    "IoU": {"num_classes": CLASSES, "target_class_ids": [0, 2], "dtype": "float64"},
    "MeanIoU": {"num_classes": CLASSES, "dtype": "float64"},
    "MeanMetricWrapper": {"fn": keras.losses.mean_squared_error},
    "OneHotIoU": {"num_classes": CLASSES, "target_class_ids": [0, 2], "dtype": "float64"},
    "OneHotMeanIoU": {"num_classes": CLASSES, "dtype": "float64"},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "SparseTopKCategoricalAccuracy": {"k": 2},
    "TopKCategoricalAccuracy": {"k": 2},
}


def kind_of(name):
    return next((kind for kind, names in OF_KIND.items() if name in names), "probabilities")


def of_predictions(name):
    """Whether a metric is one of targets and predictions; `Mean` and `Sum` are of single values."""
    return "y_true" in inspect.signature(getattr(M, name).update_state).parameters


def names_of(form):
    if form == "class":
        return [name for name in public(M, M.Metric) if of_predictions(name)]
    return [name for name in functions(M) if can_be_named(name)]


def can_be_named(name):
    """Whether `compile` takes a function by its name."""
    try:
        return bool(M.get(name))
    except ValueError:
        return False


def metric_of(name, form):
    """Make a metric: the name of a function, or an object of a class, named as its class."""
    if form == "function":
        return name
    try:
        return getattr(M, name)(name=name, **RECIPES.get(name, {}))
    except Exception as error:
        pytest.fail(f"keras.metrics.{name} needs a recipe in tests/catalogue/test_metrics.py: {error}")


def model_of(form, weighted):
    """Make a model with an output of each kind, compiled with every metric on the kind that it takes."""
    features = keras.Input((4,))
    hidden = L.Dense(6, activation="tanh")(features)
    outputs = {kind: head(kind, hidden, kind) for kind in ("probabilities", "binary")}
    # The same numbers for targets of another form.
    outputs["labels"] = L.Identity(name="labels")(outputs["probabilities"])
    outputs["classes"] = classes_of(outputs["probabilities"], "classes")
    outputs |= {kind: single(outputs["probabilities"], kind) for kind in SINGLE}
    model = keras.Model(features, outputs)
    metrics = {kind: [] for kind in KINDS}
    for name in names_of(form):
        metrics[kind_of(name)].append(metric_of(name, form))
    which = "weighted_metrics" if weighted else "metrics"
    loss = {"probabilities": "mse", "binary": "mse"}
    model.compile(keras.optimizers.Adam(0.1), loss, **{which: metrics}, jit_compile=False)
    return model


@pytest.mark.parametrize("weighted", [False, pytest.param(True, marks=pytest.mark.full)], ids=["plain", "weighted"])
@pytest.mark.parametrize("form", ["class", pytest.param("function", marks=pytest.mark.full)])
def test_every_metric_equals_plain_keras(form, weighted):
    y = {kind: target(kind) for kind in KINDS}
    weight = {kind: weights() for kind in KINDS} if weighted else None
    arms = [trained(lambda: model_of(form, weighted), inputs(), y, plan, weight) for plan in (None, PLANS["replicas"])]
    entries = {name: f"history {kind_of(name)}_{name}" for name in names_of(form)}
    assert arms[0].keys() >= set(entries.values())
    assert beyond(arms[1], arms[0]).keys() == {entry for name, entry in entries.items() if name in METRICS}


def test_the_lists_name_metrics_of_keras():
    assert {*public(M, M.Metric), *functions(M)} >= {*RECIPES, *METRICS, *sum(OF_KIND.values(), [])}
