"""Losses as numerators and statistics: summed over shares they are the loss of the whole batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.compat.tensors import set_mask
from kparallel.errors import DataError, ModelError
from kparallel.loss.term import is_batch_coupled, loss_term, row_mean

RNG = np.random.default_rng(0)
Y, P, W = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 3)), RNG.uniform(size=7)
SHARES = [slice(0, 4), slice(4, 5), slice(5, 7)]


def total(terms, kind=1):
    """Put terms of shares together as the step does: factors follow from the summed statistics.

    The value is the reported one by default, the one that is differentiated for a kind of 0.
    """
    statistics = [tf.add_n(list(each)) for each in zip(*(term.statistics for term in terms), strict=True)]
    return float(terms[0].factors(statistics)[kind]) * sum(float(term.numerator) for term in terms)


@pytest.mark.parametrize("weights", [None, W])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("kind", [keras.losses.MeanSquaredError, keras.losses.Huber, keras.losses.LogCosh])
def test_shares_add_up_to_the_whole(kind, reduction, weights):
    loss = kind(reduction=reduction, dtype="float64")
    terms = [
        loss_term(loss, Y[rows], P[rows], None if weights is None else weights[rows], len(Y[rows]), "mean", 7)
        for rows in SHARES
    ]
    assert total(terms) == pytest.approx(float(loss(Y, P, weights)), rel=1e-12)


def test_a_scalar_of_each_share_is_a_mean_of_its_rows():
    values = [tf.constant(float(np.mean(W[rows])), tf.float64) for rows in SHARES]
    terms = [row_mean(value, len(W[rows])) for value, rows in zip(values, SHARES, strict=True)]
    assert total(terms) == pytest.approx(np.mean(W), rel=1e-12)


MASK = RNG.uniform(size=(7, 3)) > 0.4


def masked(rows, is_masked):
    values = tf.constant(P[rows])
    if is_masked:
        set_mask(values, tf.constant(MASK[rows]))
    return values


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("weights", [None, np.broadcast_to(W[:, None], (7, 3))])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight", None])
def test_a_scalar_meets_weights_and_masks_as_in_plain_keras(reduction, weights, is_masked):
    class Scalar(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.square(y_true - y_pred))

    loss = Scalar(reduction=reduction, dtype="float64")
    terms = [
        loss_term(
            loss, Y[rows], masked(rows, is_masked), None if weights is None else weights[rows], len(Y[rows]), "mean", 7
        )
        for rows in SHARES
    ]
    whole = loss(Y, masked(slice(None), is_masked), weights)
    # Keras differentiates the sum of what is not reduced, and logs the mean.
    assert total(terms) == pytest.approx(float(tf.reduce_mean(whole)), rel=1e-12)
    assert total(terms, 0) == pytest.approx(float(tf.reduce_sum(whole)), rel=1e-12)


def test_losses_that_compare_rows_need_the_whole_batch():
    coupled = [keras.losses.Dice(), keras.losses.Circle(), keras.losses.CosineSimilarity(axis=0)]
    apart = [keras.losses.Dice(axis=(1,)), keras.losses.CosineSimilarity(), keras.losses.MeanSquaredError()]
    assert [is_batch_coupled(loss) for loss in [*coupled, *apart]] == [True] * 3 + [False] * 3


def test_an_unknown_reduction_is_refused():
    loss = keras.losses.MeanSquaredError()
    loss.reduction = "median"
    with pytest.raises(ModelError, match="received MeanSquaredError with 'median'"):
        loss_term(loss, Y, P, None, 7, "mean", 7)


@pytest.mark.parametrize(("rows", "whole"), [(1, 1), (1, 2), (3, 6), (3, None)])
def test_a_weight_a_row_does_not_broadcast_to_positions(rows, whole):
    """A share of as many rows as positions would, and one of a single row: plain Keras fails for the whole batch."""
    loss = keras.losses.SparseCategoricalCrossentropy(dtype="float64")
    tags, scores = np.zeros((rows, 3), "int32"), RNG.uniform(size=(rows, 3, 2))
    want = float(loss(tags, scores, W[:rows, None]))
    assert total([loss_term(loss, tags, scores, W[:rows, None], rows, "mean", whole)]) == pytest.approx(want, rel=1e-12)
    if whole == 1:
        assert total([loss_term(loss, tags, scores, W[:1], 1, "mean", 1)]) == pytest.approx(want, rel=1e-12)
        return
    masked = tf.constant(scores)
    masked._keras_mask = tf.ones((rows, 3), tf.bool)
    for predicted in (scores, masked):
        with pytest.raises(DataError, match=rf"of shape \({rows}, 3\) here.*received shape \({rows},\)"):
            loss_term(loss, tags, predicted, W[:rows], rows, "mean", whole)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
def test_a_weight_a_row_of_an_undivided_batch_meets_what_it_meets_in_plain_keras(reduction):
    """Where the batch has as many rows as the loss has positions, Keras gives each position another row's weight."""
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction, dtype="float64")
    tags, scores = np.zeros((3, 3), "int32"), RNG.uniform(size=(3, 3, 2))
    masked = tf.constant(scores)
    masked._keras_mask = tf.constant([[True, True, False], [True, False, False], [True, True, True]])
    for predicted in (scores, masked):
        want = float(loss(tags, predicted, W[:3]))
        assert total([loss_term(loss, tags, predicted, W[:3], 3, "mean", 3)]) == pytest.approx(want, rel=1e-12)
    with pytest.raises(DataError, match=r"received shape \(2,\)"):
        loss_term(loss, tags[:2], scores[:2], W[:2], 2, "mean", 2)
