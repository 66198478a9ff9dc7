"""Layers are called without side effects."""

import keras
import pytest
import tensorflow as tf

from kparallel.errors import ModelError
from kparallel.stage.assignments import Assignments


@pytest.fixture
def pair():
    return keras.Variable(2.0), keras.Variable(3.0, trainable=False)


def test_assignments_are_recorded_and_read_but_not_written(pair):
    weight, state = pair
    before = [tf.constant(20.0), tf.constant(30.0)]
    with Assignments([(weight, before[0])], [(state, before[1])]) as scope:
        state.assign(state + weight)
        seen = float(state.value)
    assert seen == 50.0 and (float(weight), float(state)) == (2.0, 3.0)
    assert scope.changed([weight], before[:1]) == [None]
    (new,) = scope.changed([state], before[1:])
    assert float(new) == 50.0


def test_no_gradient_flows_through_an_assignment_but_through_each_read(pair):
    weight, _ = pair
    value = tf.constant(2.0)
    with tf.GradientTape() as tape, Assignments([(weight, value)], []):
        tape.watch(value)
        first = 3.0 * weight
        weight.assign(first * 10.0)
        total = first + 5.0 * weight.value
    assert float(total) == 6.0 + 5.0 * 60.0 and float(tape.gradient(total, value)) == 3.0 + 5.0


def test_unknown_variables_are_written_at_once(pair):
    weight, other = pair
    with Assignments([(weight, tf.constant(2.0))], []) as scope:
        other.assign(7.0)
    assert float(other) == 7.0
    assert scope.changed([weight], [scope.state_mapping[id(weight)]]) == [None]


def test_an_assignment_in_a_branch_is_refused(pair):
    weight, state = pair

    @tf.function(autograph=False)
    def step(value):
        with Assignments([(weight, value)], [(state, value)]) as scope:
            tf.cond(value > 0, lambda: state.assign(value) + 1.0, lambda: value)
            return scope.changed([state], [value])

    with pytest.raises(ModelError, match="outside the loops and branches"):
        step.get_concrete_function(tf.TensorSpec(()))
