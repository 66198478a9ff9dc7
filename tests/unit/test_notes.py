"""What a step itself assigns to weights, told apart from what optimizers make of them."""

import keras
import tensorflow as tf

from kparallel.ownstep.draws import Draws
from kparallel.ownstep.notes import Notes


def test_a_weight_without_its_updates():
    weight, other = keras.Variable(1.0, name="kernel"), keras.Variable(5.0, name="bias")
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build([weight, other])
    notes = Notes(Draws(2))
    notes.begin([weight, other])
    weight.assign_add(10.0)  # The step's own.
    notes.note(optimizer, [tf.constant(4.0)], [weight])
    weight.assign_sub(2.0)  # The optimizer's.
    notes.updated([weight])
    weight.assign_add(100.0)  # The step's own.
    assert {path: float(value) for path, value in notes.moved().items()} == {weight.path: 111.0}


def test_gradients_have_names_and_learning_rates_are_the_users():
    weight = keras.Variable([1.0], name="kernel")
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
    optimizer.build([weight])
    notes = Notes(Draws(2))
    notes.begin([weight])
    notes.note(optimizer, [tf.constant([4.0])], [weight])
    notes.note(optimizer, [tf.constant([6.0])], [weight])
    assert notes.names == [[weight.path], [weight.path]] and notes.squared == [False, False]
    assert [[gradient.numpy().tolist() for gradient in update] for update in notes.gradients] == [[[4.0]], [[6.0]]]
    assert id(optimizer.momentums[0]) in notes.trained and id(optimizer._learning_rate) not in notes.trained
    assert not notes.conditional
