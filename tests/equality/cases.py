"""The table of cases: what is trained, on what, and how. Plans stand in `plans`, tolerances in `tolerances`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from tests.equality import models as m

SCCE = "sparse_categorical_crossentropy"
O = keras.optimizers  # noqa: E741
M = keras.metrics


@dataclass(frozen=True)
class Case:
    """One thing that a wrapped model has to compute as the plain one does.

    `features` are what the pairwise covering set crosses with plans. `compile` and `fit` give keyword arguments,
    made anew for each model. `policy` is a dtype policy where the case is about one; other cases run in float64
    and in float32. `cut` and `microbatches` say whether the model may have several stages and microbatches.
    """

    name: str
    features: tuple[str, ...]
    compile: Callable[[], dict[str, Any]]
    model: Callable[[], keras.Model] = m.mlp
    data: Callable[[], tuple[Any, ...]] = m.numbers
    fit: Callable[[], dict[str, Any]] = field(default=dict)
    policy: str | None = None
    cut: bool = True
    microbatches: bool = True
    note: str = ""


def scalar_loss(y_true, y_pred):
    return keras.ops.mean((keras.ops.cast(y_true, y_pred.dtype) - y_pred) ** 2)


class Twice(keras.losses.SparseCategoricalCrossentropy):
    """Overrides the reduction as well: nothing tells what it makes of a part of the batch."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        return 2 * super().__call__(y_true, y_pred, sample_weight)


def scalar_of_keras(y_true, y_pred):
    return keras.losses.CategoricalCrossentropy()(y_true, y_pred) + keras.losses.MeanSquaredError()(y_true, y_pred)


def ratio_of_sums(y_true, y_pred):
    """No mean over the rows, as a loss of tokens that divides by those that count."""
    counted = y_pred**2
    return keras.ops.sum(counted * (y_true - y_pred) ** 2) / keras.ops.sum(counted)


def rows_compared(y_true, y_pred):
    """A value for each row, which depends on the others."""
    similar = keras.ops.matmul(y_pred, keras.ops.transpose(y_pred)) - keras.ops.matmul(
        y_true, keras.ops.transpose(y_true)
    )
    return keras.ops.mean(similar**2, axis=-1)


def mean_by_column(y_true, y_pred):
    return keras.ops.sqrt(keras.ops.mean((y_true - y_pred) ** 2, axis=0) + 0.1)


def of_optimizer(make, **arguments):
    return lambda: {"optimizer": make(), "loss": SCCE, **arguments}


def of_loss(make, **arguments):
    return lambda: {"optimizer": O.SGD(0.1), "loss": make(), **arguments}


def _decay_without_biases():
    optimizer = O.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def _metrics():
    return [
        M.AUC(name="auc"),
        M.F1Score(name="f1"),
        M.Precision(name="precision"),
        M.Recall(name="recall"),
        M.OneHotMeanIoU(3, name="iou"),
        M.CategoricalAccuracy(name="accuracy"),
        M.RootMeanSquaredError(name="rmse"),
        M.MeanMetricWrapper(scalar_loss, name="mean"),
        scalar_loss,
    ]


_OPTIMIZERS = [
    Case("sgd_momentum", ("slots",), of_optimizer(lambda: O.SGD(0.1, momentum=0.9))),
    Case("nesterov", ("slots",), of_optimizer(lambda: O.SGD(0.1, momentum=0.9, nesterov=True))),
    Case("adam", ("slots",), of_optimizer(lambda: O.Adam(0.01), metrics=["accuracy"])),
    Case("amsgrad", ("slots",), of_optimizer(lambda: O.Adam(0.01, amsgrad=True))),
    Case("adamw", ("slots", "decay"), of_optimizer(lambda: O.AdamW(0.01, weight_decay=0.1))),
    Case("decay_without_biases", ("decay",), of_optimizer(_decay_without_biases)),
    Case("adafactor", ("slots",), of_optimizer(lambda: O.Adafactor(0.01))),
    Case("lion", ("slots",), of_optimizer(lambda: O.Lion(0.01))),
    Case("muon", ("slots", "decay"), of_optimizer(lambda: O.Muon(0.01))),
    Case("rmsprop", ("slots",), of_optimizer(lambda: O.RMSprop(0.01, momentum=0.5, centered=True))),
    Case("clipnorm", ("clip",), of_optimizer(lambda: O.SGD(0.5, clipnorm=0.05))),
    Case("global_clipnorm", ("clip",), of_optimizer(lambda: O.SGD(0.5, global_clipnorm=0.05))),
    Case("clipvalue", ("clip",), of_optimizer(lambda: O.SGD(0.5, clipvalue=0.01))),
    Case(
        "ema",
        ("slots", "ema"),
        of_optimizer(lambda: O.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)),
    ),
    Case("ema_at_the_end", ("ema",), of_optimizer(lambda: O.Adam(0.01, use_ema=True, ema_momentum=0.5))),
    Case("accumulation", ("accumulation",), of_optimizer(lambda: O.Adam(0.01, gradient_accumulation_steps=2))),
    Case(
        "accumulation_with_clipping",
        ("accumulation", "clip"),
        of_optimizer(lambda: O.SGD(0.5, gradient_accumulation_steps=3, global_clipnorm=0.05)),
    ),
    Case(
        "exponential_decay",
        ("schedule",),
        of_optimizer(lambda: O.SGD(O.schedules.ExponentialDecay(0.1, 2, 0.5))),
    ),
    Case(
        "cosine_with_warmup",
        ("schedule", "slots"),
        of_optimizer(lambda: O.Adam(O.schedules.CosineDecay(0.0, 6, warmup_target=0.05, warmup_steps=3))),
    ),
]

_LOSSES = [
    Case(
        "sum",
        ("loss",),
        lambda: {"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(reduction="sum")},
    ),
    Case("weights", ("weights",), of_loss(lambda: SCCE, weighted_metrics=["accuracy"]), data=m.weighted),
    Case(
        "weighted_mean",
        ("weights", "loss"),
        of_loss(lambda: keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")),
        data=m.weighted,
    ),
    Case(
        "class_weight",
        ("weights",),
        of_loss(lambda: SCCE),
        fit=lambda: {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
    ),
    Case("scalar_loss", ("loss",), of_loss(lambda: scalar_loss), data=m.one_hot),
    Case("scalar_sum", ("loss",), of_loss(lambda: lambda y, p: keras.ops.sum((y - p) ** 2)), data=m.one_hot),
    Case("scalar_of_keras", ("loss",), of_loss(lambda: scalar_of_keras), data=m.one_hot),
    Case("ratio_of_sums", ("loss", "coupled"), of_loss(lambda: ratio_of_sums), data=m.one_hot),
    Case("rows_compared", ("loss", "coupled"), of_loss(lambda: rows_compared), data=m.one_hot),
    Case("mean_by_column", ("loss", "coupled"), of_loss(lambda: mean_by_column), data=m.one_hot),
    Case("dice", ("loss", "coupled"), of_loss(keras.losses.Dice), data=m.one_hot),
    Case("tversky", ("loss", "coupled"), of_loss(keras.losses.Tversky), data=m.one_hot),
    Case("dice_by_name", ("coupled",), of_loss(lambda: "dice"), data=m.one_hot),
    Case("circle_by_name", ("coupled",), of_loss(lambda: "circle")),
    Case("own_call", ("loss", "coupled", "weights"), of_loss(Twice), data=m.weighted),
    Case("own_call_of_a_mask", ("mask", "coupled"), of_loss(Twice), m.padded_sequence, m.tokens),
    Case(
        "label_smoothing",
        ("loss",),
        of_loss(lambda: keras.losses.CategoricalCrossentropy(label_smoothing=0.1)),
        data=m.one_hot,
    ),
    Case(
        "dict_of_losses",
        ("outputs", "loss"),
        of_loss(lambda: {"a": SCCE, "b": "mse"}, loss_weights={"a": 0.3, "b": 2.0}, metrics={"a": ["accuracy"]}),
        m.branched,
        m.two_targets,
    ),
    Case(
        "dict_of_weights",
        ("outputs", "weights"),
        of_loss(lambda: {"a": SCCE, "b": "mse"}, weighted_metrics={"a": ["accuracy"], "b": ["mae"]}),
        m.branched,
        m.two_weighted_targets,
    ),
    Case(
        "list_of_losses",
        ("outputs", "inputs"),
        of_loss(lambda: [SCCE, "mae"], loss_weights=[0.3, 2.0], metrics=[["accuracy"], ["mse"]]),
        m.shared_and_nested,
        m.two_inputs,
    ),
    Case(
        "logits",
        ("loss", "logits"),
        lambda: {
            "optimizer": O.SGD(0.1),
            "loss": {"a": SCCE, "b": "binary_crossentropy"},
            "metrics": {"a": [M.SparseCategoricalCrossentropy(name="entropy")]},
        },
        m.certain,
        m.two_classes,
    ),
    Case("regularizers", ("penalties",), of_loss(lambda: SCCE), m.regularized),
    Case("regularizers_and_weights", ("penalties", "weights"), of_loss(lambda: SCCE), m.regularized, m.weighted),
    Case("add_loss", ("penalties",), of_loss(lambda: SCCE), m.penalized),
    Case("add_loss_of_keras", ("penalties",), of_loss(lambda: SCCE), m.penalized_by_keras),
    Case("mask", ("mask",), of_loss(lambda: SCCE, weighted_metrics=["accuracy"]), m.padded_sequence, m.tokens),
    Case(
        "mask_and_weights",
        ("mask", "weights"),
        of_loss(lambda: SCCE, weighted_metrics=["accuracy"]),
        m.padded_sequence,
        m.weighted_tokens,
    ),
    Case("lstm", ("mask", "recurrent"), of_loss(lambda: SCCE, metrics=["accuracy"]), m.lstm, m.tokens),
    Case("gru", ("recurrent",), of_optimizer(lambda: O.Adam(0.01)), m.gru, m.labelled_tokens),
    Case(
        "metrics", ("metrics",), lambda: {"optimizer": O.SGD(0.1), "loss": "mse", "metrics": _metrics()}, data=m.one_hot
    ),
]

_TRAINING = [
    Case("sequential", ("model",), of_loss(lambda: SCCE), m.sequential),
    Case("subclassed", ("model",), of_loss(lambda: SCCE), m.subclassed, cut=False),
    Case("frozen_in_part", ("model", "frozen"), of_optimizer(lambda: O.Adam(0.01)), m.frozen_in_part),
    Case("masked_kernels", ("assigned", "penalties"), of_optimizer(lambda: O.Adam(0.01)), m.masked_kernels),
    Case("spectral", ("assigned", "state"), of_optimizer(lambda: O.Adam(0.01)), m.spectral),
    Case("spectral_lookup", ("assigned",), of_optimizer(lambda: O.SGD(0.1)), m.spectral_lookup, m.tokens),
    Case("observed", ("state",), of_optimizer(lambda: O.SGD(0.1)), m.observed),
    Case("convolution", ("model",), of_optimizer(lambda: O.Adam(0.01)), m.convolution, m.images),
    Case("synchronized", ("norm",), of_loss(lambda: SCCE), m.synchronized, microbatches=False),
    Case(
        "synchronized_adam",
        ("norm", "slots"),
        of_optimizer(lambda: O.Adam(0.01)),
        m.synchronized,
        microbatches=False,
        note="The bias before a BatchNorm has no gradient but rounding, which Adam divides by its own size in float32.",
    ),
    Case(
        "validation_split",
        ("validation",),
        of_loss(lambda: SCCE, metrics=["accuracy"]),
        fit=lambda: {"validation_split": 0.3},
    ),
    Case(
        "validation_data",
        ("validation", "weights"),
        of_loss(lambda: SCCE, weighted_metrics=["accuracy"]),
        data=m.weighted,
        fit=lambda: {"validation_data": m.weighted(), "validation_batch_size": 4, "validation_freq": 2},
    ),
    Case(
        "steps_per_execution",
        ("steps",),
        of_optimizer(lambda: O.Adam(0.01), steps_per_execution=2, metrics=["accuracy"]),
    ),
    Case("some_steps", ("steps",), of_loss(lambda: SCCE), fit=lambda: {"steps_per_epoch": 2}),
    Case("later_epochs", ("steps",), of_loss(lambda: SCCE), fit=lambda: {"epochs": 4, "initial_epoch": 2}),
    Case("xla", ("xla",), of_optimizer(lambda: O.Adam(0.01), jit_compile=True, metrics=["accuracy"])),
    Case(
        "xla_of_a_mask",
        ("xla", "mask"),
        of_loss(lambda: SCCE, jit_compile=True),
        m.padded_sequence,
        m.weighted_tokens,
    ),
    Case("mixed_float16", ("mixed",), of_optimizer(lambda: O.SGD(0.1), metrics=["accuracy"]), policy="mixed_float16"),
    Case("mixed_float16_adam", ("mixed", "slots"), of_optimizer(lambda: O.Adam(0.01)), policy="mixed_float16"),
    Case("mixed_bfloat16", ("mixed",), of_optimizer(lambda: O.SGD(0.1)), policy="mixed_bfloat16"),
]

_LOOKUPS = [
    Case("positions", ("lookup",), of_optimizer(lambda: O.Adam(0.01)), m.positions, m.labelled_tokens),
    Case(
        "positions_clipped",
        ("lookup", "clip"),
        of_optimizer(lambda: O.SGD(0.5, global_clipnorm=0.05)),
        m.positions,
        m.labelled_tokens,
    ),
    Case(
        "positions_accumulated",
        ("lookup", "accumulation"),
        of_optimizer(lambda: O.RMSprop(0.01, gradient_accumulation_steps=2)),
        m.positions,
        m.labelled_tokens,
    ),
    Case(
        "positions_xla",
        ("lookup", "xla"),
        of_optimizer(lambda: O.Adam(0.01), jit_compile=True),
        m.positions,
        m.labelled_tokens,
    ),
    Case(
        "positions_eagerly",
        ("lookup",),
        of_optimizer(lambda: O.Adam(0.01), run_eagerly=True),
        m.one_table,
        m.labelled_tokens,
    ),
    Case(
        "positions_mixed_float16",
        ("lookup", "mixed"),
        of_optimizer(lambda: O.Adagrad(0.1)),
        m.positions,
        m.labelled_tokens,
        policy="mixed_float16",
    ),
    Case("held_positions", ("lookup",), of_optimizer(lambda: O.AdamW(0.01)), m.held_positions, m.labelled_tokens),
    Case("tiled_positions", ("lookup",), of_optimizer(lambda: O.Adam(0.01)), m.tiled_positions, m.labelled_tokens),
    Case("one_table", ("lookup",), of_optimizer(lambda: O.Adagrad(0.1)), m.one_table, m.labelled_tokens),
    Case(
        "one_table_clipped",
        ("lookup", "clip"),
        of_optimizer(lambda: O.SGD(0.5, clipnorm=0.05)),
        m.one_table,
        m.labelled_tokens,
    ),
    Case(
        "positions_from_another_stage",
        ("lookup",),
        of_optimizer(lambda: O.Adam(0.01)),
        m.positions_from_another_stage,
        m.labelled_tokens,
    ),
    Case("sparse_inputs", ("sparse",), of_optimizer(lambda: O.Adam(0.01)), m.sparse_mlp, m.sparse_numbers),
    Case(
        "sparse_inputs_clipped",
        ("sparse", "clip"),
        of_optimizer(lambda: O.SGD(0.5, clipvalue=0.01)),
        m.sparse_mlp,
        m.sparse_numbers,
    ),
]

# Two rules at once, where each alone may hold.
_COMBINATIONS = [
    Case("scalar_loss_and_weights", ("loss", "weights"), of_loss(lambda: scalar_loss), data=m.weighted_one_hot),
    Case(
        "no_reduction",
        ("loss", "weights"),
        of_loss(lambda: keras.losses.SparseCategoricalCrossentropy(reduction="none")),
        data=m.weighted,
    ),
    Case(
        "shares_without_weight",
        ("weights",),
        of_loss(
            lambda: keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
            weighted_metrics=["accuracy"],
        ),
        data=m.some_without_weight,
    ),
    Case(
        "shares_without_tokens",
        ("mask",),
        of_loss(lambda: SCCE, weighted_metrics=["accuracy"]),
        m.padded_sequence,
        m.some_without_tokens,
    ),
    Case("add_loss_in_two_stages", ("penalties", "penalties_apart"), of_loss(lambda: SCCE), m.penalized_twice),
    Case(
        "mixed_float16_regularizers",
        ("mixed", "penalties"),
        of_loss(lambda: SCCE),
        m.regularized_weights,
        policy="mixed_float16",
    ),
    Case(
        "mixed_float16_clipping",
        ("mixed", "clip"),
        of_optimizer(lambda: O.SGD(0.5, global_clipnorm=0.05)),
        policy="mixed_float16",
    ),
    Case(
        "mixed_float16_accumulation",
        ("mixed", "accumulation"),
        of_optimizer(lambda: O.SGD(0.1, gradient_accumulation_steps=2)),
        policy="mixed_float16",
    ),
    Case(
        "ema_and_executions",
        ("ema", "steps"),
        of_optimizer(
            lambda: O.Adam(0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3), steps_per_execution=4
        ),
    ),
    Case(
        "accumulation_and_ema",
        ("accumulation", "ema"),
        of_optimizer(
            lambda: O.SGD(0.1, gradient_accumulation_steps=2, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
        ),
    ),
]

CASES = {case.name: case for case in (*_OPTIMIZERS, *_LOSSES, *_TRAINING, *_LOOKUPS, *_COMBINATIONS)}
