"""The statistics of the whole batch, with communication only where the row counts do not determine them."""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from kparallel.data.share import Share
from kparallel.engine.denominators import rows_of_batch, whole_batch_factors
from kparallel.loss.term import Term


class Other:
    """A communicator with one other replica, which gives always the same."""

    def __init__(self, *values):
        self.values = values
        self.calls = 0

    def all_reduce(self, tensors):
        self.calls += 1
        return [tensor + tf.cast(self.values, tensor.dtype) for tensor in tensors]


def replica(*values):
    return SimpleNamespace(last=Other(*values), pipeline=SimpleNamespace(stages=(None,)))


def mean(by_rows):
    return Term(tf.constant(0.0), [tf.constant(0.0)], lambda sums: (1 / sums[0], 2 / sums[0]), by_rows)


def factors(replica, share, terms, *statistics):
    scale = lambda value: 10 * value  # noqa: E731
    found = whole_batch_factors(replica, share, terms, [tf.constant(each) for each in statistics], scale)
    return [[float(value) for value in part] for part in found]


def share(count, whole):
    return Share(None, None, None, count, whole)


def test_statistics_are_summed_over_the_replicas_and_each_term_takes_its_own():
    one = replica(6.0, 1.0)
    assert factors(one, share(2, 8), [(3.0, mean(True)), (None, mean(False))], 2.0, 4.0) == [[3.75, 2.0], [0.25, 0.4]]
    assert one.last.calls == 1


def test_row_counts_need_no_communication():
    one = replica()
    assert factors(one, share(2, 8), [(1.0, mean(True))], 2.0) == [[1.25], [0.25]]
    assert one.last.calls == 0


def test_the_padding_row_of_an_empty_share_does_not_count():
    assert factors(replica(8.0), share(0, 8), [(1.0, mean(False))], 5.0) == [[1.25], [0.25]]


def test_the_rows_of_a_batch_are_counted_where_nobody_knows_them():
    one = replica(3.0)
    np.testing.assert_array_equal(rows_of_batch(one, share(2, None)), 5.0)
    assert one.last.calls == 1
    np.testing.assert_array_equal(rows_of_batch(one, share(2, 8)), 8.0)
    assert one.last.calls == 1
