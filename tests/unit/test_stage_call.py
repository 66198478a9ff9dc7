"""A forward pass on a tape, differentiated once for inputs and weights."""

import tensorflow as tf

from kparallel.engine.stage_call import TapedCall
from kparallel.engine.stage_device import StageDevice
from kparallel.stage.stage import Forward, StateRules
from kparallel.stage.value import Value


def call(weight, x, rows=2):
    def function(weights, state, inputs):
        product = inputs[0].tensor * weights[0]
        return Forward([Value(product), Value(tf.exp(inputs[0].tensor))], [product[0]], [None], [], StateRules((), ()))

    return TapedCall(function, StageDevice("CPU:0"), [weight], [], [Value(x)], [x], rows)


def test_both_kinds_of_gradients_come_from_one_backward_pass():
    weight, x = tf.constant(3.0), tf.constant([1.0, 2.0])
    made = call(weight, x)
    factors = [tf.constant(0.0, term.numerator.dtype) for term in made.added]
    (of_x,) = made.input_gradients([tf.constant([1.0, 1.0]), None, None, None], factors)
    assert of_x.numpy().tolist() == [3, 3]
    (of_weight,) = made.weight_gradients()
    assert of_weight.numpy() == 3 and made.intermediate() == [of_weight]


def test_an_added_loss_has_its_factor_as_cotangent():
    weight, x = tf.constant(3.0), tf.constant([1.0, 2.0])
    made = call(weight, x, rows=5)  # A scalar counts as a mean over the rows, so its numerator is five times as large.
    (term,) = made.added
    made.input_gradients([None] * 4, [tf.constant(2.0, term.numerator.dtype)])
    assert made.weight_gradients()[0].numpy() == 2 * 5 * 1


def test_without_any_cotangent_there_are_no_gradients():
    made = call(tf.constant(3.0), tf.constant([1.0, 2.0]))
    made.added = []
    assert made.input_gradients([None] * 4, []) == [None] and made.weight_gradients() == [None]
