"""What follows a replica through its graph takes note of writes before it tells how a tensor depends on the rows."""

import keras
import tensorflow as tf

from kparallel.ownstep.rows import StepRows
from kparallel.ownstep.traced import Traced
from kparallel.ownstep.written import Written
from kparallel.stage.dependence import Dependence


def test_what_is_read_after_a_write_depends_on_what_was_written():
    variable, found = keras.Variable(0.0), []

    def trace(x):
        graph = tf.compat.v1.get_default_graph()
        rows = StepRows(graph, [x])
        written = Written(graph, rows, {id(variable.value.handle): variable}, set(), set(), 2)
        traced = Traced(rows, written, None, False)
        found.append(traced.dependence(tf.identity(variable.value)))
        variable.assign(tf.reduce_mean(x))
        found.append(traced.dependence(tf.identity(variable.value)))

    tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec((None, 3)))
    assert found == [Dependence.NONE, Dependence.MEAN]
