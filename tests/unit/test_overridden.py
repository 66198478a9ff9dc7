"""An overridden `compute_loss` is called without side effects, on the outputs alone."""

from types import MethodType

import keras
import pytest
import tensorflow as tf

from kparallel.errors import ModelError
from kparallel.loss.overridden import NotOfOutputsError, overrides_compute_loss, own_loss, own_state, refuse_added

OUTPUTS = tf.constant([[1.0], [3.0]])


class Counting(keras.Model):
    """Computes the mean of the outputs, and counts its calls in a variable of its own."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.other = self.add_weight(shape=(), initializer="zeros", trainable=False, name="other")

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.calls.assign_add(1.0)
        return keras.ops.mean(y_pred)


class Reading(Counting):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.sum(self.dense.kernel * y_pred)


FOREIGN = keras.Variable(0.0, trainable=False)


class Foreign(Counting):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        FOREIGN.assign(1.0)
        return keras.ops.mean(y_pred)


def run(kind):
    model = kind()
    model(OUTPUTS)
    return model, own_loss(model, [None, None, OUTPUTS, None], True, own_state(model))


def test_the_class_or_the_object_may_override_it():
    model = keras.Sequential([keras.layers.Dense(1)])
    assert overrides_compute_loss(Counting()) and not overrides_compute_loss(model)
    model.compute_loss = MethodType(lambda self, *args, **kwargs: 0.0, model)
    assert overrides_compute_loss(model)


def test_what_it_assigns_is_returned_and_not_written():
    model, (value, new_values, used) = run(Counting)
    assert float(value) == 2.0 and float(model.calls) == 0.0
    assert [None if new is None else float(new) for new in new_values] == [1.0, None]  # `other` does not change.
    assert id(model.calls) in used


def test_what_depends_on_more_than_the_outputs_is_refused():
    with pytest.raises(NotOfOutputsError, match="reads the weights"):
        run(Reading)
    with pytest.raises(ModelError, match="it assigns"):
        run(Foreign)
    assert float(FOREIGN) == 0.0


def test_added_losses_and_an_override_are_refused_together():
    refuse_added(Counting(), [])
    with pytest.raises(NotOfOutputsError, match="overrides compute_loss and has layers that call add_loss"):
        refuse_added(Counting(), [tf.constant(1.0)])
