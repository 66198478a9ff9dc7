"""Sums of what replicas hold."""

import numpy as np
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica, add

TABLE = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([0, 2]), tf.constant([4, 1]))
OTHER = tf.IndexedSlices(tf.constant([[4.0]]), tf.constant([2], tf.int64), tf.constant([4, 1]))


def test_a_single_replica_sends_nothing():
    single = SingleReplica()
    assert single.all_reduce([1, 2]) == [1, 2] and single.all_gather([1, 2]) == [[1], [2]]
    assert single.replica_index == 0


def test_slices_stay_slices_whatever_integers_number_their_rows():
    total = add([TABLE, OTHER])
    assert isinstance(total, tf.IndexedSlices) and total.indices.dtype == tf.int64
    assert total.indices.numpy().tolist() == [0, 2, 2] and total.values.numpy().ravel().tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("values", [[TABLE, OTHER], [TABLE, tf.convert_to_tensor(OTHER)]])
def test_a_sum_of_slices_and_tensors_is_that_of_the_tensors(values):
    np.testing.assert_array_equal(tf.convert_to_tensor(add(values)), [[1.0], [0.0], [6.0], [0.0]])
