"""How many batches data have, before they are read."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kparallel.data.cardinality import length_of, steps_of, training_length, validation_length

X = np.zeros((10, 2))
ROWS = tf.data.Dataset.from_tensor_slices(X)
FIT = dict.fromkeys(("x", "batch_size", "validation_data", "validation_batch_size", "steps_per_epoch"))
FIT |= {"validation_split": 0.0}


@pytest.mark.parametrize(
    ("data", "batch_size", "length"),
    [
        (X, 4, 3),
        (X, None, 1),
        ({"a": X, "b": X}, 5, 2),
        (ROWS.batch(4), None, 3),
        (ROWS.repeat(), None, math.inf),
        (ROWS.filter(lambda row: row[0] > 0), None, None),
        (iter([X]), None, None),
    ],
)
def test_batches_are_counted_where_their_number_is_known(data, batch_size, length):
    assert length_of(data, batch_size) == length


def test_rows_that_are_split_off_are_not_trained_on():
    assert training_length(FIT | {"x": X, "batch_size": 2, "validation_split": 0.3}) == 4
    assert validation_length(FIT | {"x": X}) == 0
    assert validation_length(FIT | {"batch_size": 2, "validation_data": (X, X)}) == 5
    assert validation_length(FIT | {"batch_size": 2, "validation_batch_size": 4, "validation_data": (X, X)}) == 3


def test_steps_of_endless_data_are_unknown_unless_they_are_told():
    endless = FIT | {"x": ROWS.repeat()}
    assert steps_of(endless) is None and steps_of(endless | {"steps_per_epoch": 7}) == 7
    assert steps_of(FIT | {"x": X, "batch_size": 4}) == 3
