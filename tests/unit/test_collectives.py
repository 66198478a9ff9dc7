"""What a loss asks of all replicas, where no step runs."""

import pytest
import tensorflow as tf

from kparallel.ownstep.collectives import all_reduce, gather
from kparallel.stage.dependence import Dependence
from kparallel.stage.traced_dependence import dependence

ROWS = tf.constant([[1.0], [2.0], [4.0]])


def test_outside_of_a_step_there_are_no_other_rows():
    assert gather(ROWS) is ROWS
    assert float(all_reduce(tf.reduce_sum(ROWS))) == 7.0


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda rows: tf.reduce_mean(rows), Dependence.MEAN),
        (lambda rows: tf.reduce_mean(gather(rows)), Dependence.OTHER),
        (lambda rows: tf.reduce_sum(rows), Dependence.SUM),
        (lambda rows: all_reduce(tf.reduce_sum(rows)), Dependence.OTHER),
    ],
)
def test_a_loss_that_asks_is_computed_from_the_whole_batch(loss, expected):
    assert dependence(loss, [ROWS]) is expected


def test_it_computes_the_same_for_all_that():
    @tf.function(input_signature=[tf.TensorSpec([None, 1])], autograph=False)
    def both(rows):
        return gather(rows), all_reduce(tf.reduce_sum(rows))

    rows, total = both(ROWS)
    assert rows.numpy().tolist() == ROWS.numpy().tolist() and float(total) == 7.0
