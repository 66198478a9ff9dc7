"""What one replica's rows count for in the whole batch's sums."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica, add
from kparallel.ownstep.sums import Portion, StepSums, scaled, wide


class Pair(SingleReplica):
    """Replica 0 of two; the other one has the same, twice as large."""

    def all_reduce(self, values):
        return [add([value] * 3) for value in values]

    def all_gather(self, values):
        return [[value, 2 * value] for value in values]


def sums(share, replicas=2):
    placement = SimpleNamespace(communicators=(Pair(),), compression=None, replicas=replicas)
    return StepSums(placement, share, lambda tensor: None, lambda slices: False)


SHARE = Portion(rows=2, part=0.25, filled=0.5, sums=False)
EMPTY = Portion(rows=0, part=0.0, filled=0.0, sums=False)


def test_a_factor_keeps_all_digits_of_the_values_dtype():
    value = tf.constant(1.0, tf.float64)
    assert float(scaled(value, 1 / 3)) == 1 / 3 and scaled(value, 1.0) is value
    assert wide(tf.constant(2**31 - 1, tf.int32)).dtype == tf.int64 and wide(value) is value


def test_the_row_of_an_empty_share_counts_nowhere():
    bad = tf.constant([np.nan, 1.0])
    assert EMPTY.counted(bad).numpy().tolist() == EMPTY.averaged(bad).numpy().tolist() == [0.0, 0.0]
    assert SHARE.averaged(tf.constant([4.0])).numpy().tolist() == [1.0]


@pytest.mark.parametrize(("share", "value", "gradient"), [(SHARE, 15.0, 3.0), (EMPTY, 0.0, 0.0)])
def test_a_total_is_of_all_replicas_and_its_gradient_of_ones_own_part(share, value, gradient):
    x = tf.constant(5.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = sums(share).total(x)
    # Upstream 1 times the factor 1/4, summed over both (times 3), divided by the factor again.
    assert float(total) == value and float(tape.gradient(total, x)) == gradient


def test_the_gradient_of_gathered_rows_reaches_the_own_ones():
    x = tf.constant([[1.0], [2.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        rows = sums(SHARE).rows(x)
        loss = tf.reduce_sum(rows * tf.constant([[1.0], [10.0], [100.0], [1000.0]]))
    assert rows.numpy().ravel().tolist() == [1.0, 2.0, 2.0, 4.0]
    assert tape.gradient(loss, x).numpy().ravel().tolist() == [3.0, 30.0]


def test_gradients_are_weighed_and_slices_stay_slices():
    slices = tf.IndexedSlices(tf.constant([[8.0]]), tf.constant([5]), tf.constant([9, 1]))
    dense, kept = sums(SHARE).gradients([tf.constant([4.0]), slices], [tf.Variable([0.0]), tf.Variable([[0.0]])])
    assert dense.numpy().tolist() == [3.0]  # 4 times 1/4, summed.
    assert kept.values.numpy().ravel().tolist() == [2.0] * 3 and kept.indices.numpy().tolist() == [5] * 3
    alone = [tf.constant([4.0])]
    assert sums(SHARE, replicas=1).gradients(alone, [None]) is alone
