"""Measures the link between each pair of devices of one process."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kparallel.comm.communicator import LocalCommunicator
from kparallel.compat.distribute import mirrored
from kparallel.selftest.links import AllReduce, Link, measure

__all__: list[str] = []


def device_links(devices: Sequence[str]) -> list[Link]:
    """Return what was measured between each pair of devices, one pair after the other.

    Args:
        devices: Their short names.
    """
    return [
        measure((first, second), "one process", 0, _all_reduce(first, second))
        for first, second in itertools.combinations(devices, 2)
    ]


def _all_reduce(first: str, second: str) -> AllReduce:
    """Return a reduction to which the second device contributes twice what the first one does.

    The arrays are made on the devices, and only one that is equal on both comes back.
    """
    strategy, communicator = mirrored((first, second)), LocalCommunicator((first, second))

    @tf.function(reduce_retracing=False)  # type: ignore[untyped-decorator]
    def total(value: tf.Tensor, size: int) -> Any:
        def contribute() -> Any:
            # The first device gives 1 and the second 2, so that a result that misses either is no 3.
            own = tf.fill([size], value * tf.cast(communicator.replica_index + 1, tf.float32))
            (result,) = communicator.all_reduce([own])
            # One number says what all elements are, where they are equal.
            return tf.where(tf.reduce_min(result) == tf.reduce_max(result), result[0], np.nan)

        return strategy.experimental_local_results(strategy.run(contribute))

    def all_reduce(array: Any) -> Any:
        results = [float(each) for each in total(tf.constant(array[0]), array.size)]
        return np.full_like(array, results[0] if results[0] == results[1] else np.nan)

    return all_reduce
