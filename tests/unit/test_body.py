"""The computation of a stage: some calls of an opened graph, or a whole model."""

import keras
import tensorflow as tf

from kparallel.stage.body import Segment, Whole, trained
from kparallel.stage.graph import open_graph


def fork():
    """Return a model of three calls: x doubled, x tripled, and the sum of both."""
    x = keras.Input((2,))
    double, triple = keras.layers.Rescaling(2.0, name="double"), keras.layers.Rescaling(3.0, name="triple")
    return keras.Model(x, keras.layers.Add(name="sum")([double(x), triple(x)]))


def test_a_segment_reads_and_writes_by_number():
    # Values: 0 the input, 1 and 2 the branches, 3 the sum.
    calls = open_graph(fork()).calls
    one, ten = tf.ones([1, 2]), tf.fill([1, 2], 10.0)
    (branch,) = Segment(calls[:1], (0,), (1,))([one], False)
    assert branch.numpy().tolist() == [[2.0, 2.0]]
    other, total = Segment(calls[1:], (0, 1), (2, 3))([one, ten], False)
    assert other.numpy().tolist() == [[3.0, 3.0]] and total.numpy().tolist() == [[13.0, 13.0]]


def test_a_layer_that_is_called_twice_appears_once():
    x, dense = keras.Input((2,)), keras.layers.Dense(2)
    graph = open_graph(keras.Model(x, dense(dense(x))))
    assert len(graph.calls) == 2 and Segment(graph.calls, (0,), (2,)).layers() == [dense]


def test_a_whole_model_may_have_a_call_without_the_argument_training():
    class Plain(keras.Model):
        def call(self, x):
            return x + 1

    class Told(keras.Model):
        def call(self, x, training=None):
            return x + (10 if training else 1)

    zero = tf.zeros([1])
    assert [float(Whole(Plain())([zero], training)[0][0]) for training in (True, False)] == [1.0, 1.0]
    assert [float(Whole(Told())([zero], training)[0][0]) for training in (True, False)] == [10.0, 1.0]


def test_each_variables_own_attribute_says_whether_it_trains():
    block = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(2)])
    block.trainable = False
    block.layers[1].trainable = True  # Unfrozen afterwards.
    assert [id(v) for v in trained([block, block])] == [id(v) for v in block.layers[1].variables]
