"""Collectives between the replicas of one column: all-reduce and all-gather."""

import abc
from collections.abc import Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from kparallel.mesh import device_kind

__all__: list[str] = []


class Communicator(abc.ABC):
    """Collectives between the replicas of one column.

    Law: every replica makes the same calls in the same order. The results are equal on every replica. Gathered values
    have the order of the replicas.
    """

    @abc.abstractmethod
    def all_reduce(self, values: list[Any]) -> list[Any]:
        """Sum each value over the replicas; the slices of `tf.IndexedSlices` are concatenated."""

    def reduce(self, values: list[Any], owners: Sequence[int]) -> list[Any]:
        """Sum each value to one replica, its owner; what the other replicas get must not be used.

        Args:
            values: As in `all_reduce`.
            owners: For each value the index of its owner among the replicas of all workers.
        """
        return self.all_reduce(values)

    def broadcast(self, values: list[Any], owners: Sequence[int]) -> list[Any]:
        """Return the tensors of the owners; what the other replicas give is not used.

        Args:
            values: Tensors, of the same shapes and dtypes on all replicas.
            owners: For each value the index of its owner among the replicas of all workers.
        """
        # A sum to which all but the owner add zeros: the exact value, by twice the bytes that would have to travel.
        index = self.replica_index
        return self.all_reduce(
            [value if owner == index else tf.zeros_like(value) for value, owner in zip(values, owners, strict=True)]
        )

    @abc.abstractmethod
    def all_gather(self, values: list[Any]) -> list[list[Any]]:
        """Return `[value][replica]`. The replicas' tensors may differ in their first dim."""

    @property
    @abc.abstractmethod
    def replica_index(self) -> int:
        """This replica's index among the replicas of all workers."""

    def abort(self) -> None:
        """Close the connections after a failed step, so that no other worker waits for this one."""
        return None

    def renew(self) -> None:
        """Drop what a failed step left, if the workers have connected anew since. Call it before the next steps."""
        return None


class SingleReplica(Communicator):
    """The communicator of a single replica: nothing is sent."""

    def all_reduce(self, values: list[Any]) -> list[Any]:
        return list(values)

    def all_gather(self, values: list[Any]) -> list[list[Any]]:
        return [[value] for value in values]

    @property
    def replica_index(self) -> int:
        return 0


class LocalCommunicator(Communicator):
    """Collectives between devices of one process. CPUs add on the first device, GPUs use NCCL.

    The NCCL path follows TensorFlow's documentation and has not run on GPUs yet.

    Args:
        column: The devices, in replica order.
    """

    def __init__(self, column: tuple[str, ...]) -> None:
        self._column = column
        self._nccl = tf.distribute.NcclAllReduce() if device_kind(column[0]) == "GPU" else None

    @property
    def replica_index(self) -> int:
        # Known while the step is traced: each replica traces its own part of the graph, and knows which one it is.
        return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))

    def all_reduce(self, values: list[Any]) -> list[Any]:
        if not values:
            return []
        # `merge_call` waits until all replicas have called it, then runs `_sum` once with the values of all of them.
        return list(tf.distribute.get_replica_context().merge_call(self._sum, args=(values,)))

    def reduce(self, values: list[Any], owners: Sequence[int]) -> list[Any]:
        if not values:
            return []
        # Each sum is made on the device of the one replica that needs it, and travels nowhere else.
        add_up = partial(self._sum_to, owners=owners)
        return list(tf.distribute.get_replica_context().merge_call(add_up, args=(values,)))

    def all_gather(self, values: list[Any]) -> list[list[Any]]:
        # Here a value holds those of all replicas, `[value][replica]` after `experimental_local_results`.
        def collect(strategy: tf.distribute.Strategy, values: list[Any]) -> list[list[Any]]:
            return [list(strategy.experimental_local_results(value)) for value in values]

        return [list(v) for v in tf.distribute.get_replica_context().merge_call(collect, args=(values,))]

    def _sum(self, strategy: tf.distribute.Strategy, values: list[Any]) -> list[Any]:
        # NCCL adds dense tensors only.
        if self._nccl is not None and not any(isinstance(v, tf.IndexedSlices) for v in values):
            return list(self._nccl.batch_reduce(tf.distribute.ReduceOp.SUM, [(v, v) for v in values]))
        return self._sum_to(strategy, values, [0] * len(values))

    def _sum_to(self, strategy: tf.distribute.Strategy, values: list[Any], owners: Sequence[int]) -> list[Any]:
        sums = []
        for value, owner in zip(values, owners, strict=True):
            # `value` holds one tensor for each replica, on that replica's device; the sum is made on the owner's.
            with tf.device(self._column[owner]):
                sums.append(add(list(strategy.experimental_local_results(value))))
        return sums


def add(values: list[Any]) -> Any:
    """Add tensors or `tf.IndexedSlices`."""
    if not any(isinstance(value, tf.IndexedSlices) for value in values):
        return tf.add_n(values)
    if all(isinstance(value, tf.IndexedSlices) for value in values):
        # Concatenated, not summed: an optimizer that treats slices one by one gets those of one device.
        indices = [value.indices for value in values]
        if len({each.dtype for each in indices}) > 1:  # Two lookups may use int32 and int64.
            indices = [tf.cast(each, tf.int64) for each in indices]
        return tf.IndexedSlices(
            tf.concat([value.values for value in values], 0), tf.concat(indices, 0), values[0].dense_shape
        )
    # Some replicas have slices and others dense gradients of the same weight. The sum is dense, as on one device.
    return tf.add_n([tf.convert_to_tensor(value) for value in values])


def local_copy(value: Any) -> Any:
    """Return a copy of a sum on the current device, because each replica clips and updates on its own devices."""
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(tf.identity(value.values), tf.identity(value.indices), value.dense_shape)
    return tf.identity(value)
