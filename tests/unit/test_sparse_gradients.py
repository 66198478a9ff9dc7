"""Which slices of the parts of a batch are summed, and which are concatenated."""

import keras
import pytest
import tensorflow as tf

from kparallel.engine.sparse_gradients import (
    Kind,
    MicrobatchSlices,
    SlicedGradient,
    accumulated,
    by_kind,
    joined,
    scales_and_adds,
    unsorted,
)


def slices(values, indices):
    return tf.IndexedSlices(
        tf.constant([[float(value)] for value in values]), tf.constant(indices), tf.constant([9, 1])
    )


def read(part):
    return part.values.numpy().ravel().tolist(), part.indices.numpy().tolist()


# Two microbatches of two gathers each: positions 0 and 1, then tokens.
PARTS = MicrobatchSlices((slices([1, 2, 5], [0, 1, 7]), slices([10, 20, 50], [0, 1, 7])), (2, 3))
SIZES = [[2, 1], [2, 1]]


def test_shared_slices_are_added_one_by_one_and_those_of_rows_stay():
    found = by_kind(PARTS, [Kind.SHARED, Kind.ROWS], SIZES)
    assert [read(each) for each in found.shared] == [([11.0, 22.0], [0, 1])]
    assert [read(each) for each in found.rows] == [([5.0], [7]), ([50.0], [7])]
    assert read(found.whole()) == ([11.0, 22.0, 5.0, 50.0], [0, 1, 7, 7])


def test_distinct_slices_are_added_by_index_once_all_replicas_are_there():
    found = by_kind(PARTS, [Kind.ROWS, Kind.DISTINCT], SIZES)
    (piece, rows) = found.pieces()
    assert read(piece) == ([5.0, 50.0], [7, 7])
    whole = found.from_pieces(iter([piece, rows]))
    assert [read(each) for each in whole.distinct] == [([55.0], [7])]


def test_a_replica_sends_the_values_alone_where_all_have_the_same_indices():
    found = by_kind(PARTS, [Kind.SHARED, Kind.ROWS], SIZES)
    values, rows = found.pieces()
    assert not isinstance(values, tf.IndexedSlices) and isinstance(rows, tf.IndexedSlices)
    whole = found.from_pieces(iter([2 * values, rows]))
    assert [read(each) for each in whole.shared] == [([22.0, 44.0], [0, 1])]


def test_an_empty_share_gives_zeros_in_the_same_places():
    assert read(unsorted(PARTS).zeroed().whole()) == ([0.0] * 6, [0, 1, 7, 0, 1, 7])


def test_stages_that_read_one_table_keep_their_gathers_apart():
    found = joined([SlicedGradient(shared=(slices([1], [0]),)), SlicedGradient(shared=(slices([2], [0]),))])
    assert [read(each) for each in found.shared] == [([1.0], [0]), ([2.0], [0])]


def test_slices_stay_apart_by_microbatch_until_a_tensor_meets_them():
    both = accumulated(
        *(MicrobatchSlices((part,), (rows,)) for part, rows in zip(PARTS.parts, PARTS.rows, strict=True))
    )
    assert both.rows == (2, 3) and accumulated(None, both) is both and accumulated(both, None) is both
    dense = accumulated(both, tf.ones([9, 1])).numpy().ravel()
    assert dense.tolist() == [12.0, 23.0, 1.0, 1.0, 1.0, 1.0, 1.0, 56.0, 1.0]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (keras.optimizers.SGD(momentum=0.9), True),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), True),
        (keras.optimizers.SGD(clipnorm=1.0), False),
        (keras.optimizers.Adam(), False),
    ],
)
def test_only_sgd_without_clipping_takes_any_slices(optimizer, expected):
    assert scales_and_adds(optimizer) is expected
