"""What one replica's rows count for in the whole batch's sums."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica, add
from kparallel.ownstep.portion import Portion
from kparallel.ownstep.sums import StepSums


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


def test_what_follows_from_a_weighted_gradient_reaches_each_ones_own():
    x, weight = tf.constant([2.0]), tf.Variable([0.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        plain = sums(SHARE).gradients([x * x], [weight])[0]
        weighted = sums(SHARE).gradients([0.25 * x * x], [weight], True)[0]
    assert plain.numpy() == weighted.numpy() == 3.0
    # Upstream 1 times the factor 1/4, summed over both (times 3), times the derivative 2 x.
    assert tape.gradient(plain, x).numpy() == tape.gradient(weighted, x).numpy() == 3.0
    assert not sums(EMPTY).gradients([tf.constant([np.nan])], [weight], True)[0].numpy().any()


def test_a_tape_that_begins_with_the_factor_adds_up_what_comes_back():
    own, x = sums(SHARE), tf.constant([[5.0], [6.0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        total, rows = own.total(x), own.rows(x)
        weighted = own.gradients([x], [tf.Variable([[0.0], [0.0]])], True)[0]
        scaled = own.gradients([x], [tf.Variable([[0.0], [0.0]])])[0]
    assert not own.in_gradient
    with own.gradient(True):
        assert own.in_gradient
        found = [tape.gradient(each, x).numpy().ravel().tolist() for each in (total, rows, weighted, scaled)]
    assert found == [[3.0, 3.0]] * 3 + [[0.75, 0.75]]


@pytest.mark.parametrize("weighted", [True, False])
def test_an_infinite_derivative_of_a_padding_row_reaches_no_other_replica(weighted):
    own, x = sums(EMPTY), tf.constant([[5.0]])
    seen = []
    own.add = lambda values: [seen.append(value) or value for value in values]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        total, rows = own.total(x), own.rows(x)
    del seen[:]
    with own.gradient(weighted):
        # Its row of zeros has been divided by its length: infinite, and NaN times the factor 0.
        for each in (total, rows):
            tape.gradient(each, x, output_gradients=tf.fill(tf.shape(each), np.nan))
    assert len(seen) == 2 and not any(value.numpy().any() for value in seen)


def test_gradients_are_weighed_and_slices_stay_slices():
    slices = tf.IndexedSlices(tf.constant([[8.0]]), tf.constant([5]), tf.constant([9, 1]))
    dense, kept = sums(SHARE).gradients([tf.constant([4.0]), slices], [tf.Variable([0.0]), tf.Variable([[0.0]])])
    assert dense.numpy().tolist() == [3.0]  # 4 times 1/4, summed.
    assert kept.values.numpy().ravel().tolist() == [2.0] * 3 and kept.indices.numpy().tolist() == [5] * 3
    weighted = sums(SHARE).gradients([tf.constant([1.0]), slices], [tf.Variable([0.0]), tf.Variable([[0.0]])], True)
    assert weighted[0].numpy().tolist() == [3.0] and weighted[1].values.numpy().ravel().tolist() == [8.0] * 3
    alone = [tf.constant([4.0])]
    assert sums(SHARE, replicas=1).gradients(alone, [None]) is alone
