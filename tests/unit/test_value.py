"""What travels from stage to stage keeps what Keras attaches to tensors."""

import keras
import tensorflow as tf

from kparallel.compat.tensors import keras_logits, keras_mask, set_mask
from kparallel.stage.value import Value, differentiable, differentiable_leaves, unused_leaves, without_gradient


def softmax():
    """Return the outputs of a layer, with logits, and a mask."""
    outputs = keras.activations.softmax(tf.constant([[1.0, 2.0]]))
    set_mask(outputs, tf.constant([True]))
    return outputs


def test_masks_and_logits_pass_through_a_function():
    value = Value.of(softmax())
    through = tf.function(lambda each: each.copied())(value)
    outputs = through.attached()
    assert keras_mask(outputs).numpy().tolist() == [True]
    tf.debugging.assert_equal(keras_logits(outputs), tf.constant([[1.0, 2.0]]))


def test_a_structure_has_a_mask_for_each_tensor():
    plain = tf.constant([[3.0]])
    outputs = Value.of({"a": softmax(), "b": plain}).attached()
    assert keras_mask(outputs["a"]) is not None and keras_mask(outputs["b"]) is None
    assert outputs["b"] is not plain  # A tensor of the present action alone.


def test_leaves_that_have_cotangents_are_the_tensors_then_the_logits():
    values = [Value.of(softmax()), Value(tf.constant([1]))]
    leaves = differentiable_leaves(values)
    assert leaves[0] is values[0].tensor and leaves[2] is values[0].logits and leaves[3] is None
    assert len(differentiable(leaves)) == 2  # Integers and what is missing have none.


def test_a_tensor_whose_logits_a_loss_reads_counts_as_used():
    one = tf.ones((2,))
    values = [Value(one), Value(one, logits=one), Value([one, tf.constant([1, 2])])]  # Leaves: 4 tensors, 3 of logits.
    assert unused_leaves(values, [one, None, None, None, None, one, None]) == (2,)
    assert unused_leaves(values, [None] * 7) == (0, 1, 2, 5), "neither whole numbers nor missing logits"


def test_no_gradient_passes_through_the_places_that_are_named():
    with tf.GradientTape(persistent=True) as tape:
        x = tf.constant(3.0)
        tape.watch(x)
        first, second = without_gradient([Value(2 * x), Value(x, logits=4 * x)], [0, 1])
    found = [tape.gradient(each, x) for each in (first.tensor, second.tensor, second.logits)]
    assert found[:2] == [None, None] and float(found[2]) == 4 and first.logits is None
