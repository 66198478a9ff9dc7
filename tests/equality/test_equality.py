"""The law: a wrapped fit equals the plain one. One table of cases, crossed with replicas."""

import keras
import numpy as np
import pytest

import kparallel

# In float64, on every weight, slot and history entry.
TOLERANCE = 1e-9
ROWS, BATCH, EPOCHS = 22, 5, 2


def mlp():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(3, activation="softmax")]
    )


def regularized():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="tanh", kernel_regularizer="l2", activity_regularizer="l1")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))


def branched():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="tanh")(inputs)
    outputs = {
        "a": keras.layers.Dense(3, activation="softmax", name="a")(hidden),
        "b": keras.layers.Dense(1, name="b")(hidden),
    }
    return keras.Model(inputs, outputs)


def padded_sequence():
    tokens = keras.Input((5,), dtype="int32")
    hidden = keras.layers.Embedding(7, 4, mask_zero=True)(tokens)
    return keras.Model(tokens, keras.layers.Dense(3, activation="softmax")(hidden))


def numbers():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 4)), rng.integers(0, 3, ROWS)


def two_targets():
    x, y = numbers()
    return x, {"a": y, "b": x[:, :1] * 2}


def tokens():
    rng = np.random.default_rng(0)
    return rng.integers(0, 7, (ROWS, 5)).astype("int32"), rng.integers(0, 3, (ROWS, 5))


def one_hot():
    x, y = numbers()
    return x, np.eye(3)[y]


def scalar_loss(y_true, y_pred):
    return keras.ops.mean((keras.ops.cast(y_true, y_pred.dtype) - y_pred) ** 2)


def weights_of_rows():
    return {"sample_weight": np.random.default_rng(1).uniform(size=ROWS)}


SCCE = "sparse_categorical_crossentropy"
O = keras.optimizers  # noqa: E741
M = keras.metrics

# name: (model, data, compile arguments, fit arguments)
CASES = {
    "sgd_momentum": (mlp, numbers, lambda: {"optimizer": O.SGD(0.1, momentum=0.9), "loss": SCCE}, dict),
    "adam": (mlp, numbers, lambda: {"optimizer": "adam", "loss": SCCE, "metrics": ["accuracy"]}, dict),
    "adamw": (mlp, numbers, lambda: {"optimizer": O.AdamW(0.01, weight_decay=0.1), "loss": SCCE}, dict),
    "adafactor": (mlp, numbers, lambda: {"optimizer": O.Adafactor(0.01), "loss": SCCE}, dict),
    "lion": (mlp, numbers, lambda: {"optimizer": O.Lion(0.01), "loss": SCCE}, dict),
    "muon": (mlp, numbers, lambda: {"optimizer": O.Muon(0.01), "loss": SCCE}, dict),
    "clipnorm": (mlp, numbers, lambda: {"optimizer": O.SGD(0.5, clipnorm=0.05), "loss": SCCE}, dict),
    "global_clipnorm": (mlp, numbers, lambda: {"optimizer": O.SGD(0.5, global_clipnorm=0.05), "loss": SCCE}, dict),
    "clipvalue": (mlp, numbers, lambda: {"optimizer": O.SGD(0.5, clipvalue=0.01), "loss": SCCE}, dict),
    "ema": (
        mlp,
        numbers,
        lambda: {"optimizer": O.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2), "loss": SCCE},
        dict,
    ),
    "accumulation": (
        mlp,
        numbers,
        lambda: {"optimizer": O.Adam(0.01, gradient_accumulation_steps=2), "loss": SCCE},
        dict,
    ),
    "schedule": (
        mlp,
        numbers,
        lambda: {"optimizer": O.SGD(O.schedules.ExponentialDecay(0.1, 2, 0.5)), "loss": SCCE},
        dict,
    ),
    "steps_per_execution": (mlp, numbers, lambda: {"optimizer": "sgd", "loss": SCCE, "steps_per_execution": 2}, dict),
    "regularizers": (regularized, numbers, lambda: {"optimizer": "sgd", "loss": SCCE}, dict),
    "loss_weights": (
        branched,
        two_targets,
        lambda: {"optimizer": "sgd", "loss": {"a": SCCE, "b": "mse"}, "loss_weights": {"a": 0.3, "b": 2.0}},
        dict,
    ),
    "mask": (
        padded_sequence,
        tokens,
        lambda: {"optimizer": "sgd", "loss": SCCE, "weighted_metrics": ["accuracy"]},
        dict,
    ),
    "sample_weight": (
        mlp,
        numbers,
        lambda: {"optimizer": "sgd", "loss": SCCE, "weighted_metrics": ["accuracy"]},
        weights_of_rows,
    ),
    "class_weight": (
        mlp,
        numbers,
        lambda: {"optimizer": "sgd", "loss": SCCE},
        lambda: {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
    ),
    "sum_reduction": (
        mlp,
        numbers,
        lambda: {"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(reduction="sum")},
        dict,
    ),
    "weighted_mean_reduction": (
        mlp,
        numbers,
        lambda: {
            "optimizer": "sgd",
            "loss": keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
        },
        weights_of_rows,
    ),
    "scalar_loss": (mlp, one_hot, lambda: {"optimizer": "sgd", "loss": scalar_loss}, dict),
    "dice": (mlp, one_hot, lambda: {"optimizer": "sgd", "loss": keras.losses.Dice()}, dict),
    "tversky": (mlp, one_hot, lambda: {"optimizer": "sgd", "loss": keras.losses.Tversky()}, dict),
    "metrics": (
        mlp,
        one_hot,
        lambda: {
            "optimizer": "sgd",
            "loss": "mse",
            "metrics": [
                M.AUC(name="auc"),
                M.F1Score(name="f1"),
                M.Precision(name="precision"),
                M.OneHotMeanIoU(3, name="iou"),
                scalar_loss,
            ],
        },
        dict,
    ),
    "validation": (
        mlp,
        numbers,
        lambda: {"optimizer": "sgd", "loss": SCCE, "metrics": ["accuracy"]},
        lambda: {"validation_split": 0.3},
    ),
}


def train(model, case):
    _, data, arguments, fit = case
    model.compile(**arguments())
    x, y = data()
    history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, **fit())
    return [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)], history.history


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_wrapped_fit_equals_plain_fit(name, replicas):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    case = CASES[name]
    plain = case[0]()
    wrapped = kparallel.wrap(plain, replicas=replicas)
    want, want_history = train(plain, case)
    got, got_history = train(wrapped, case)
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    assert sorted(got_history) == sorted(want_history)
    for key, values in want_history.items():
        np.testing.assert_allclose(got_history[key], values, rtol=0, atol=TOLERANCE, err_msg=key)


@pytest.mark.parametrize("rows", range(1, 8))
def test_every_size_of_batch(rows):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    plain = mlp()
    wrapped = kparallel.wrap(plain, replicas=3)
    x, y = (part[:rows] for part in numbers())
    histories = []
    for model in (plain, wrapped):
        model.compile(O.SGD(0.1), SCCE)
        histories.append(model.fit(x, y, batch_size=8, verbose=0).history)
    for one, other in zip(wrapped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(wrapped.predict(x, verbose=0), plain.predict(x, verbose=0), rtol=0, atol=TOLERANCE)
