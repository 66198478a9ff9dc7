"""Collectives between workers by TensorFlow, over gRPC or NCCL: one group of devices for each column."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kparallel.comm.communicator import Communicator
from kparallel.comm.packs import sum_by_dtype
from kparallel.compat.distribute import CollectiveReducer

__all__: list[str] = []


class TFCommunicator(Communicator):
    """Collectives between the devices of one column on all workers.

    Every worker traces the same step, so every replica launches the same collectives in the same order. The NCCL path
    follows TensorFlow's documentation and has not run on GPUs yet.

    Args:
        column: This worker's devices of the column: full names, in the order of the replicas.
        strategy: The cluster's strategy; it numbers the collectives.
        replicas: The number of replicas on all workers.
        first_replica: The index of this worker's first replica.
    """

    def __init__(
        self,
        column: Sequence[str],
        strategy: tf.distribute.Strategy,
        replicas: int,
        first_replica: int,
    ) -> None:
        # /job:worker/replica:0/task:1/device:GPU:0  ─►  /job:worker/replica:0/task:1/device   GPU   0
        nccl = column[0].rsplit(":", 2)[-2].endswith("GPU")
        implementation = tf.distribute.experimental.CommunicationImplementation
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=implementation.NCCL if nccl else implementation.RING
        )
        self._reducer = CollectiveReducer(column, strategy, replicas, options)
        self.replicas = replicas
        self._first_replica = first_replica

    @property
    def replica_index(self) -> int:
        return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))

    def all_reduce(self, values: list[Any]) -> list[Any]:
        local = self.replica_index - self._first_replica
        # By the index in `values`: slices one by one, then dense tensors in packs.
        total = {
            index: self._reducer.sum_slices(value, local)
            for index, value in enumerate(values)
            if isinstance(value, tf.IndexedSlices)
        }
        dense = [index for index in range(len(values)) if index not in total]
        sums = sum_by_dtype(lambda packs: self._reducer.sum(packs, local), [values[index] for index in dense])
        total |= zip(dense, sums, strict=True)
        return [total[index] for index in range(len(values))]

    def all_gather(self, values: list[Any]) -> list[list[Any]]:
        local = self.replica_index - self._first_replica
        result = []
        for value in values:
            value = tf.convert_to_tensor(value)
            # The sizes of the first dim on all replicas: a sum of vectors with one entry for each replica.
            own_size = tf.one_hot(self.replica_index, self.replicas, tf.shape(value)[0], 0, dtype=tf.int32)
            sizes = self._reducer.sum([[own_size]], local)[0]
            # TensorFlow's collectives know no booleans.
            sent = tf.cast(value, tf.int32) if value.dtype == tf.bool else value
            gathered = self._reducer.gather(sent, local)
            result.append(list(tf.split(tf.cast(gathered, value.dtype), sizes, num=self.replicas)))
        return result
