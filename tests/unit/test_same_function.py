"""Functions with the same code that close over different optimizers, layers or numbers."""

from functools import partial

import keras
import tensorflow as tf

from kparallel.ownstep.same_function import key_of


def _made(optimizer, batch=None, rate=1.0):
    def step(rows, by=rate):
        return optimizer, batch, by, rows

    return step


class _Trainer:
    def step(self):
        """Trains."""


def test_a_function_that_is_made_again_is_the_same_and_one_for_another_optimizer_is_not():
    one, other = keras.optimizers.SGD(), keras.optimizers.SGD()
    assert key_of(_made(one, tf.zeros(3)))[0] == key_of(_made(one, tf.ones(4)))[0]
    keys = {key_of(_made(one))[0], key_of(_made(other))[0], key_of(_made([one]))[0], key_of(_made(one, rate=2.0))[0]}
    assert len(keys) == 4
    assert key_of(_made(one))[1] == [one]
    assert key_of(partial(_made(one), tf.zeros(3)))[0] == key_of(partial(_made(one), tf.ones(3)))[0]
    assert key_of(partial(_made(one), by=one))[0] != key_of(partial(_made(one), by=other))[0]


def test_methods_of_two_objects_are_told_apart_and_a_function_may_close_over_itself():
    one, other = _Trainer(), _Trainer()
    assert key_of(one.step)[0] == key_of(one.step)[0] != key_of(other.step)[0]

    def again():
        return again

    assert key_of(again)[0] == key_of(again)[0]
    assert key_of(print)[0] == key_of(print)[0] != key_of(len)[0]
