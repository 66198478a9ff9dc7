"""Arrays in an order that is a function of a seed and the epoch."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from kparallel.data.shuffled import ShuffledArrays

ROWS = np.arange(10)
FIT = dict.fromkeys(("y", "sample_weight", "class_weight", "steps_per_epoch"))
FIT |= {"x": ROWS, "batch_size": 4, "shuffle": True}


def order(seed=1, epoch=0, shuffle=True):
    data = ShuffledArrays(FIT | {"y": 2 * ROWS, "shuffle": shuffle}, seed)
    data.epoch = epoch
    batches = [[np.asarray(part) for part in data[index]] for index in range(len(data))]
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    for x, y in batches:
        np.testing.assert_array_equal(y, 2 * x)
    return np.concatenate([x for x, _ in batches]).tolist()


def test_each_epoch_has_each_row_once_in_an_order_of_its_own():
    orders = [tuple(order(epoch=epoch)) for epoch in range(4)]
    assert all(sorted(each) == ROWS.tolist() for each in orders) and len(set(orders)) == 4
    assert order(epoch=2) == list(orders[2]) and order(seed=2) != list(orders[0])


def test_rows_may_be_shuffled_inside_their_batches_only():
    mixed = order(shuffle="batch")
    assert mixed != ROWS.tolist()
    assert [sorted(mixed[start : start + 4]) for start in (0, 4, 8)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_pass_over_several_epochs_keeps_the_order_with_which_it_began():
    data, whole = ShuffledArrays(FIT, 1), ShuffledArrays(FIT, 1)
    first = [np.asarray(data[0][0])]
    data.epoch = 1
    first += [np.asarray(data[index][0]) for index in (1, 2)]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate([np.asarray(whole[i][0]) for i in range(3)]))


def test_rows_of_a_sparse_matrix_are_sparse_and_in_the_same_order():
    matrix = scipy.sparse.random(10, 3, density=0.4, format="coo", rng=0)
    data = ShuffledArrays(FIT | {"x": matrix, "y": ROWS}, 1)
    for x, y in (data[index] for index in range(3)):
        np.testing.assert_array_equal(tf.sparse.to_dense(tf.sparse.reorder(x)), matrix.toarray().astype("float32")[y])


def test_arrays_of_different_lengths_are_keras_own_error():
    with pytest.raises(ValueError, match="cardinality"):
        ShuffledArrays(FIT | {"y": ROWS[:5]}, 1)
