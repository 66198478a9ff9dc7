"""A batch whole, of which each worker has read its own rows."""

import numpy as np
import tensorflow as tf

from kparallel.model.whole_batch import concatenated, gathered_as_text


class Workers:
    """Worker 1 of two; what worker 0 has sent is known."""

    def __init__(self):
        self.sent = []

    def exchange(self, doing, value):
        self.sent.append(value)
        return [*self.sent[:1], value]


KINDS = [
    lambda rows: tf.constant([str(row).encode() * row + b"\xff\x00 " for row in rows]),
    lambda rows: tf.ragged.constant([[[row], [row] * row] for row in rows], tf.float64),
    lambda rows: tf.ragged.constant([[b"a b"] * row for row in rows], tf.string),
    lambda rows: tf.sparse.from_dense([[0.0, row, 2.0 * row] for row in rows]),
    lambda rows: tf.zeros((0, 2)) if not rows else tf.ones((len(rows), 2)),
]


def test_rows_of_any_kind_come_from_all_workers():
    workers = Workers()
    gathered_as_text([kind([1, 2, 3]) for kind in KINDS], workers)
    whole = gathered_as_text([kind([4, 5]) for kind in KINDS], workers)
    for found, kind in zip(whole, KINDS, strict=True):
        expected = kind([1, 2, 3, 4, 5])
        if isinstance(found, tf.SparseTensor):
            found, expected = tf.sparse.to_dense(found), tf.sparse.to_dense(expected)
        assert type(found) is type(expected) and found.dtype == expected.dtype and found.shape[0] == 5
        assert str(found) == str(expected)
    assert len(workers.sent) == 2 and gathered_as_text([], workers) == []


def test_rows_of_several_replicas_are_one_batch():
    for kind in KINDS[:4]:
        found, expected = concatenated([kind([1, 2]), kind([3])]), kind([1, 2, 3])
        if isinstance(found, tf.SparseTensor):
            found, expected = tf.sparse.to_dense(found), tf.sparse.to_dense(expected)
        np.testing.assert_equal(str(found), str(expected))
