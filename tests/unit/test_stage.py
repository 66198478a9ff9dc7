"""A stage is a pure function of weights, state and inputs."""

import keras
import tensorflow as tf

from kparallel.stage.pipeline import one_stage
from kparallel.stage.stage import averaged_states
from kparallel.stage.state import Rule
from kparallel.stage.value import Value


class Counting(keras.layers.Layer):
    """Counts its calls, adds half of its rows' mean as a loss, and returns twice its weight times its input."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(), initializer="ones", name="weight")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        self.add_loss(keras.ops.mean(x) / 2)
        return 2 * self.weight * x


def only_stage(*layers):
    model = keras.Sequential([keras.Input((1,)), *layers])
    return one_stage(model).stages[0]


def test_a_call_writes_nothing_and_returns_what_it_would_write():
    layer = Counting()
    stage = only_stage(layer)
    rows = Value(tf.constant([[1.0], [3.0]]))
    forward = stage.forward([tf.constant(5.0)], [tf.constant(7.0)], [rows], training=True)
    assert forward.outputs[0].tensor.numpy().tolist() == [[10.0], [30.0]]
    assert [float(loss) for loss in forward.added] == [1.0]
    assert [float(end) for end in forward.state] == [8.0] and forward.assigned == [None]
    assert float(layer.calls) == 0.0 and float(layer.weight) == 1.0
    assert forward.state_rules.rules == (Rule.COMMON,)  # A count of calls does not depend on the rows.


def test_norms_are_averaged_and_seeds_chained():
    norm, dropout = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    stage = only_stage(norm, dropout)
    rules = dict(zip((variable.name for variable in stage.state.variables), stage.state.known, strict=True))
    assert rules["moving_mean"] is rules["moving_variance"] is Rule.MOMENTS
    assert rules["seed_generator_state"] is Rule.SEED and len(rules) == 3
    assert averaged_states([norm, dropout]) == {id(norm.moving_mean), id(norm.moving_variance)}
