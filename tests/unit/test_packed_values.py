"""Small values that are summed together."""

import numpy as np
import tensorflow as tf

from kparallel.ownstep.packed_values import added_in_packs


def test_values_of_one_dtype_are_summed_as_one():
    given = []

    def add(values):
        given.append([(value.dtype.name, value.shape.rank, value.shape.num_elements()) for value in values])
        return [3 * value for value in values]

    values = [np.arange(6.0).reshape(2, 3), np.float64(7), np.int64(5), np.int64(6), np.float32(1)]
    sums = added_in_packs(add, [tf.constant(value) for value in values])
    assert given == [[("float64", 1, 7)], [("int64", 1, 2)], [("float32", 0, 1)]]
    for value, total in zip(values, sums, strict=True):
        assert total.dtype.name == value.dtype.name and total.shape == value.shape
        np.testing.assert_array_equal(total, 3 * value)
    assert added_in_packs(add, []) == []
