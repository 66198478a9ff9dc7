"""Writes to variables that Keras does not track."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.compat.distribute import mirrored
from kparallel.compat.variables import place_variable
from kparallel.engine.shared_writes import refuse_shared_writes
from kparallel.errors import ModelError

PAIR = ("CPU:0", "CPU:1")
WRITES = {
    "at once": lambda v: v.assign_add(1.0),
    "in a function": lambda v: tf.function(lambda: v.assign_add(1.0), autograph=False)(),
    "in a branch": lambda v: tf.cond(v > 0, lambda: v.assign_add(1.0) + 0.0, lambda: 0.0),
    "in a loop": lambda v: tf.while_loop(lambda i: i < 3, lambda i: (i + 1 + 0 * int_of(v.assign_add(1.0)),), (0,)),
}


def int_of(value):
    return tf.cast(value, tf.int32)


def traced(write, parts):
    def step():
        with refuse_shared_writes(parts):
            write()

    tf.function(step, autograph=False).get_concrete_function()


@pytest.mark.parametrize("name", WRITES)
def test_a_shared_variable_is_written_by_a_single_part_alone(name):
    variable = tf.Variable(1.0, name="counter")
    traced(lambda: WRITES[name](variable), 1)
    with pytest.raises(ModelError, match="'counter'.*the 3 parts"):
        traced(lambda: WRITES[name](variable), 3)


def test_copies_and_reads_and_what_a_function_makes_are_no_shared_writes():
    variable, read = keras.Variable(np.float32(1.0)), tf.Variable(1.0)
    place_variable(variable, mirrored(PAIR), PAIR)
    copy = variable.value.values[1]
    traced(lambda: copy.assign_add(read), 3)


def test_what_was_traced_before_does_not_count():
    variable = tf.Variable(1.0)

    def step():
        variable.assign(2.0)
        with refuse_shared_writes(3):
            tf.constant(1.0)

    tf.function(step, autograph=False).get_concrete_function()
    with refuse_shared_writes(3):  # Eagerly nothing is looked at.
        variable.assign(3.0)
