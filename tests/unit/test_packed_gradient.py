"""A gradient as the arguments of a function."""

import pytest
import tensorflow as tf

from kparallel.engine.packed_gradient import PackedGradient


def slices(rows, whole=(5, 2)):
    shape = None if whole is None else tf.constant(whole)
    return tf.IndexedSlices(tf.ones([rows, 2]), tf.range(rows), shape)


@pytest.mark.parametrize("gradient", [None, tf.constant([1.0, 2.0]), slices(3), slices(3, None)])
def test_what_is_packed_comes_out_again(gradient):
    packed = PackedGradient(gradient)
    found = packed.unpacked(iter(packed.tensors))
    if isinstance(gradient, tf.IndexedSlices):
        assert found.values is gradient.values and found.indices is gradient.indices
        assert (found.dense_shape is None) == (gradient.dense_shape is None)
    else:
        assert found is gradient


def test_a_function_takes_its_own_arguments_off_the_front():
    first, second = PackedGradient(slices(1)), PackedGradient(tf.constant(7.0))
    tensors = iter([*first.tensors, *second.tensors])
    assert first.unpacked(tensors).values.shape == (1, 2)
    assert float(second.unpacked(tensors)) == 7.0


def test_one_function_takes_slices_of_any_number_of_rows_of_one_table():
    assert PackedGradient(slices(1)).key == PackedGradient(slices(4)).key
    assert PackedGradient(slices(1)).key != PackedGradient(slices(1, (6, 2))).key
    assert PackedGradient(tf.ones([2])).key != PackedGradient(tf.ones([3])).key
    assert PackedGradient(None).key != PackedGradient(tf.ones([2])).key
