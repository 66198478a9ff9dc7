"""Splitting a batch into shares and microbatches."""

import numpy as np
import pytest
import tensorflow as tf

from kparallel.data.share import RowCounts, microbatches, row_count, slice_rows, split_sizes, take_share
from kparallel.errors import DataError

X = tf.reshape(tf.range(14), [7, 2])


@pytest.mark.parametrize(("count", "parts"), [(7, 3), (2, 3), (0, 2), (12, 4)])
def test_sizes_differ_by_one_at_most_and_add_up(count, parts):
    sizes = split_sizes(count, parts)
    assert sum(sizes) == count and len(sizes) == parts and max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_shares_are_the_batch_in_order():
    shares = [take_share((X, X), RowCounts(7), r, r, 3, pad=True) for r in range(3)]
    assert [(share.first, share.count, share.whole) for share in shares] == [(0, 3, 7), (3, 2, 7), (5, 2, 7)]
    np.testing.assert_array_equal(tf.concat([share.x for share in shares], 0), X)


@pytest.mark.parametrize(("pad", "rows"), [(True, 1), (False, 0)])
def test_an_empty_share_has_a_row_that_counts_nowhere_if_layers_need_one(pad, rows):
    share = take_share((X[:1], X[:1]), RowCounts(1), 1, 1, 2, pad=pad)
    assert (share.count, len(share.x)) == (0, rows)


def test_a_divided_batch_is_the_replicas_own():
    share = take_share((X, None, X[:, 0]), RowCounts((3, 7)), 1, 5, 8, pad=True)
    assert (share.count, share.whole, share.first) == (7, None, None) and share.y is None
    assert len(share.sample_weight) == 7


@pytest.mark.parametrize("size", [0, 2])
def test_rows_of_any_kind_are_cut(size):
    dense = tf.reshape(tf.range(1.0, 9.0), (4, 2))
    kinds = {"dense": dense, "ragged": tf.RaggedTensor.from_tensor(dense), "sparse": tf.sparse.from_dense(dense)}
    found = slice_rows(kinds | {"none": None}, 1, size)
    assert found["none"] is None and row_count(found["ragged"]) == row_count(found["sparse"]) == size
    numbers = [found["dense"], tf.reshape(found["ragged"].flat_values, (size, 2)), tf.sparse.to_dense(found["sparse"])]
    for each in numbers:
        np.testing.assert_array_equal(each, dense[1 : 1 + size])


def test_microbatches_know_their_place():
    share = take_share((X, X), RowCounts(7), 1, 1, 2, pad=True)  # Rows 4, 5, 6.
    parts = microbatches(share, 2)
    assert [(part.first, part.count) for part in parts] == [(4, 2), (6, 1)]
    np.testing.assert_array_equal(tf.concat([part.x for part in parts], 0), X[4:])
    assert [part.count for part in microbatches(share, 5)] == [1, 1, 1]


def test_data_without_rows_is_refused():
    with pytest.raises(DataError, match="first dim is the rows"):
        row_count(tf.constant(1.0))
