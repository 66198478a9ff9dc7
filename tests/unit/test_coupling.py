"""Which losses are computed from the parts of a batch, and which need all of its rows."""

import keras
import pytest
import tensorflow as tf

from kparallel.engine.coupling import Coupling, WholeBatchNeeded

ROWS = (tf.ones([3, 2]), tf.zeros([3, 2]), None)


def row_errors(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2, axis=-1)


def mean_error(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2)


def summed_error(y_true, y_pred):
    return keras.ops.sum((y_true - y_pred) ** 2)


def ratio(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2) / keras.ops.mean(y_true)


def coupling(loss, reduction="mean", parts=2):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", loss)
    model.compute_loss(y=ROWS[0], y_pred=ROWS[1])  # Builds Keras's container.
    return Coupling(model, reduction, parts), model._compile_loss._flat_losses[0].loss


@pytest.mark.parametrize(
    ("loss", "reduction", "expected"),
    [
        (row_errors, "mean", "mean"),
        (mean_error, "mean", "mean"),
        (summed_error, "mean", "sum"),
        (mean_error, "sum", "sum"),
        (ratio, "mean", "global"),
        (mean_error, "global", "global"),
        ("mse", "global", "mean"),
    ],
)
def test_the_graph_of_a_users_loss_decides_unless_the_user_does(loss, reduction, expected):
    found, one = coupling(loss, reduction)
    assert found.of(one, ROWS, whole=True) == expected


NUMBERS = (tf.ones([3]), tf.zeros([3]), None)  # One a row: the last dim is the rows.


@pytest.mark.parametrize(
    ("loss", "call", "expected"),
    [
        ("mse", NUMBERS, "mean"),
        ("kl_divergence", NUMBERS, "sum"),
        ("kl_divergence", ROWS, "mean"),
        (keras.losses.CategoricalHinge(), NUMBERS, "global"),
        (keras.losses.CosineSimilarity(), NUMBERS, "global"),
        (keras.losses.CosineSimilarity(), ROWS, "mean"),
        (keras.losses.CosineSimilarity(axis=-2), ROWS, "global"),
        (keras.losses.Dice(axis=-1), ROWS, "mean"),
        (keras.ops.vdot, ROWS, "global"),
    ],
)
def test_what_keras_reduces_over_the_rows_is_no_mean_of_rows(loss, call, expected):
    found, one = coupling(loss)
    assert found.of(one, call, whole=True) == expected


def test_a_loss_that_turns_out_to_need_all_rows_asks_for_them():
    found, one = coupling(ratio)
    assert not found.whole
    with pytest.raises(WholeBatchNeeded):
        found.of(one, ROWS, whole=False)
    assert found.whole


def test_an_undivided_batch_needs_no_graph():
    found, one = coupling(ratio, parts=1)
    assert found.of(one, ROWS, whole=False) == "mean" and not found.whole


def test_a_loss_of_kerass_that_compares_rows_is_known_beforehand():
    assert coupling(keras.losses.Dice())[0].whole
    assert not coupling(keras.losses.Dice(axis=-1))[0].whole
