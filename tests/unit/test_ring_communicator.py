"""What the ring between workers carries for TensorFlow."""

import warnings
from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from kparallel.comm.ring_communicator import RingCommunicator
from tests.unit.rings import at_once


def test_sums_that_overflow_are_those_of_tensorflow_without_a_warning(connected):
    largest = np.finfo(np.float32).max
    rows = [[np.inf, largest, 1.0], [-np.inf, largest, 2.0]]
    exchanges = [
        RingCommunicator(["CPU:0"], ring, SimpleNamespace(replica_index=index, replicas=2), index)
        for index, ring in enumerate(connected(2))
    ]
    steps = [tf.function(lambda x, exchange=exchange: exchange.all_reduce([x])[0]) for exchange in exchanges]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs = zip(steps, rows, strict=True)
        sums = at_once([lambda step=step, row=row: step(tf.constant(row)) for step, row in pairs])
    for each in sums:
        np.testing.assert_array_equal(each, [np.nan, np.inf, 3.0])
    assert not [each for each in caught if each.category is RuntimeWarning]
