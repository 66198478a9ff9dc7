"""What a worker has read, as one number."""

import numpy as np
import tensorflow as tf

from kparallel.data.digest import BatchDigest

X, Y = np.arange(6.0).reshape(3, 2), np.arange(3)


def digest(*batches):
    read = BatchDigest()
    for batch in batches:
        read.add(batch)
    return str(read)


def test_it_tells_targets_and_their_order_apart():
    assert digest((X, Y), (X, Y + 1)) == digest((tf.constant(X), tf.constant(Y)), (X, Y + 1))
    assert len({digest((X, Y)), digest((X, Y + 1)), digest((X, Y), (X, Y)), digest((X, Y[::-1])), digest()}) == 5


def test_inputs_count_only_where_there_are_no_targets():
    assert digest((X, Y)) == digest((X + 0.1, Y)), "inputs may differ by a random augmentation"
    assert digest((X,)) != digest((X + 0.1,))


def test_texts_count_too_and_a_new_digest_forgets():
    words = [np.array([word], object) for word in ("one", "two")]
    assert digest((X, words[0])) != digest((X, words[1]))
    read = BatchDigest()
    read.add((X, Y))
    read.begin()
    assert str(read) == digest()
