"""Collectives between CPUs of several workers: a ring over TCP, which takes less than half of gRPC's time."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kparallel.comm.comm_thread import CommThread, Work, gather, joining, reducing, summing
from kparallel.comm.communicator import Communicator
from kparallel.comm.packs import bundles, by_dtype, sizes_of, sum_by_dtype
from kparallel.comm.ring import Ring
from kparallel.comm.tf_collectives import TFCommunicator
from kparallel.compat.functions import run_independently

__all__: list[str] = []


class RingCommunicator(Communicator):
    """Collectives between the CPUs of one column on all workers.

    ```text
    TensorFlow    gradients ─► submit ─► (next operations of the backward pass ...)
                                 │
    CommThread                   └──► ring over TCP ──► on_done
                                                           │
    TensorFlow                                             └──► dequeue ─► result ─► sums
    ```

    No thread of TensorFlow's is blocked: `submit` and `result` return at once, and the dequeue of a queue waits without
    a thread. Steps that run eagerly use TensorFlow's collectives.

    Args:
        column: This worker's devices of the column: full names, in the order of the replicas.
        ring: The connections to the other workers.
        plain: TensorFlow's collectives between the same devices.
        first_replica: The index of this worker's first replica.
    """

    def __init__(self, column: Sequence[str], ring: Ring, plain: TFCommunicator, first_replica: int) -> None:
        self._plain = plain
        self._first_replica = first_replica
        self._local_replicas = len(column)
        with tf.init_scope(), tf.device(column[0]):
            # For each local replica a queue, which holds one element for each transfer that is done.
            self._done = [tf.queue.FIFOQueue(-1, [tf.bool], [[]]) for _ in column]
        self._comm_thread = CommThread(ring, [_notifier(done) for done in self._done])
        self._generation = self._comm_thread.generation
        weakref.finalize(self, self._comm_thread.stop)

    @property
    def replica_index(self) -> int:
        return self._plain.replica_index

    def all_reduce(self, values: list[Any]) -> list[Any]:
        if tf.executing_eagerly():
            return self._plain.all_reduce(values)
        dense = [value for value in values if not isinstance(value, tf.IndexedSlices)]
        return self._with_slices(values, sum_by_dtype(self._sum_packs, dense))

    def reduce(self, values: list[Any], owners: Sequence[int]) -> list[Any]:
        if tf.executing_eagerly():
            return self._plain.reduce(values, owners)
        dense = [(v, owner) for v, owner in zip(values, owners, strict=True) if not isinstance(v, tf.IndexedSlices)]
        tensors, workers = [value for value, _ in dense], [owner // self._local_replicas for _, owner in dense]

        def carry(pack: list[int]) -> list[tf.Tensor]:
            return self._reduce_pack(tensors, pack, workers)

        # Every worker gets the slices: they are few, and worth no collective of another kind.
        return self._with_slices(values, by_dtype(tensors, workers, carry))

    def broadcast(self, values: list[Any], owners: Sequence[int]) -> list[Any]:
        if tf.executing_eagerly():
            return self._plain.broadcast(values, owners)

        def carry(pack: list[int]) -> list[tf.Tensor]:
            return self._broadcast_pack(values, pack, list(owners))

        return by_dtype(values, owners, carry)

    def all_gather(self, values: list[Any]) -> list[list[Any]]:
        if tf.executing_eagerly() or not values:
            return self._plain.all_gather(values)
        tensors = [tf.convert_to_tensor(value) for value in values]
        replicas = self._plain.replicas
        shapes = [tf.TensorShape([None, *tensor.shape[1:]]) for tensor in tensors for _ in range(replicas)]
        # The result is flat: `[value 0 of all replicas, value 1 of all replicas, ...]`.
        parts = self._exchanged(gather, tensors, shapes, [tensor.dtype for tensor in tensors for _ in range(replicas)])
        return [parts[start : start + replicas] for start in range(0, len(parts), replicas)]

    def abort(self) -> None:
        self._comm_thread.abort()

    def renew(self) -> None:
        if self._generation == self._comm_thread.generation:
            return
        self._generation = self._comm_thread.generation
        # First the thread has to be done with the failed step: what it completes afterwards would add elements again.
        self._comm_thread.settle()
        for done in self._done:  # A failed step may have left elements that nobody took.
            if count := int(done.size()):
                done.dequeue_many(count)

    def _sum_packs(self, packs: list[list[tf.Tensor]]) -> list[tf.Tensor]:
        return [total for pack in packs for total in self._sum_pack(pack)]

    def _sum_pack(self, pack: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sum tensors of one dtype as one, since one call of Python costs more than concatenation in TensorFlow."""
        dtype = pack[0].dtype
        packed = _joined(pack)
        add = _add_half if dtype == tf.float16 else _add
        (total,) = self._exchanged(summing(add), [packed], [packed.shape], [dtype])
        return _taken_apart(total, pack)

    def _with_slices(self, values: list[Any], totals: list[tf.Tensor]) -> list[Any]:
        """Return the sums of the dense values, and between them the slices of all replicas in the place of slices."""
        dense = iter(totals)
        result: list[Any] = []
        for value in values:
            if not isinstance(value, tf.IndexedSlices):
                result.append(next(dense))
                continue
            # Slices differ in number from replica to replica, so they are gathered; a sum of slices is their
            # concatenation.
            parts = self.all_gather([value.values, value.indices])
            slice_values, indices = (tf.concat(part, 0) for part in parts)
            result.append(tf.IndexedSlices(slice_values, indices, value.dense_shape))
        return result

    def _reduce_pack(self, tensors: list[tf.Tensor], pack: list[int], workers: list[int]) -> list[tf.Tensor]:
        """Sum tensors of one dtype, each to one worker; a tensor for another worker comes back as it is.

        Args:
            tensors: All tensors.
            pack: The indices of those to sum.
            workers: The worker of each of all tensors.
        """
        own, dtype = self._first_replica // self._local_replicas, tensors[pack[0]].dtype
        grouped = bundles(pack, sizes_of(tensors), workers)
        numbers = [len(grouped.get(worker, [])) for worker in range(self._plain.replicas // self._local_replicas)]
        arrays = [_joined([tensors[index] for index in bundle]) for of_one in grouped.values() for bundle in of_one]
        mine = grouped.get(own, [])
        shapes = [_flat_shape([tensors[index] for index in bundle]) for bundle in mine]
        work = reducing(_add_half if dtype == tf.float16 else _add, numbers)
        return _replaced(tensors, pack, mine, self._exchanged(work, arrays, shapes, [dtype] * len(mine)))

    def _broadcast_pack(self, tensors: list[tf.Tensor], pack: list[int], owners: list[int]) -> list[tf.Tensor]:
        """Return the owners' tensors of one dtype; this replica's own come back as they are.

        Args:
            tensors: All tensors.
            pack: The indices of those to bring.
            owners: The replica that owns each of all tensors.
        """
        dtype, own = tensors[pack[0]].dtype, self.replica_index
        grouped = bundles(pack, sizes_of(tensors), owners)
        shapes = {
            owner: [_flat_shape([tensors[index] for index in bundle]) for bundle in of_one]
            for owner, of_one in grouped.items()
        }
        numbers = [[shape[0] for shape in shapes.get(replica, [])] for replica in range(self._plain.replicas)]
        arrays = [_joined([tensors[index] for index in bundle]) for bundle in grouped.get(own, [])]
        others = [bundle for owner, of_one in grouped.items() if owner != own for bundle in of_one]
        expected = [shape for owner, of_one in shapes.items() if owner != own for shape in of_one]
        work = joining(numbers, np.dtype(dtype.as_numpy_dtype))
        return _replaced(tensors, pack, others, self._exchanged(work, arrays, expected, [dtype] * len(others)))

    def _exchanged(
        self, work: Work, tensors: list[tf.Tensor], shapes: list[tf.TensorShape], dtypes: list[tf.DType]
    ) -> list[tf.Tensor]:
        """Submit tensors to the communication thread and return the results.

        Args:
            work: The collective to run.
            tensors: This replica's tensors.
            shapes: The static shapes of the results.
            dtypes: The dtypes of the results.
        """
        # The index among the replicas of this process.
        replica = self.replica_index - self._first_replica
        comm_thread = self._comm_thread

        def submit(*arrays: np.ndarray[Any, Any]) -> np.int64:
            return np.int64(comm_thread.submit(replica, work, list(arrays)))

        # The number is a result too: of a pack that is for other workers alone a worker gets no arrays.
        def result(number: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
            return [np.asarray(number), *comm_thread.result(replica, int(number))]

        # Every worker submits in the same order: that in which the step was traced. The graph keeps the last
        # submission, after which the next one has to come.
        submitted = tf.compat.v1.get_default_graph().get_collection_ref(f"kparallel_submitted_{id(self)}_{replica}")
        with tf.control_dependencies(submitted[-1:]):
            number = tf.numpy_function(submit, tensors, tf.int64)
        submitted.append(number.op)
        with tf.control_dependencies([number]):
            done = self._done[replica].dequeue()
        with tf.control_dependencies([done]):
            last, *results = list(tf.numpy_function(result, [number], [tf.int64, *dtypes]))
        # TensorFlow would run all stateful operations of a function one after another. The edges above are enough.
        run_independently(number.op)
        run_independently(last.op)
        for tensor, shape in zip(results, shapes, strict=True):
            tensor.set_shape(shape)
        return results


def _notifier(done: tf.queue.FIFOQueue) -> Callable[[], None]:
    handle, components = done.queue_ref, [tf.constant(True)]
    return lambda: tf.raw_ops.QueueEnqueueV2(handle=handle, components=components)


def _joined(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Return the elements of tensors as one tensor of one dim."""
    flat = [tf.reshape(tensor, [-1]) for tensor in tensors]
    return tf.concat(flat, 0) if len(flat) > 1 else flat[0]


def _taken_apart(joined: tf.Tensor, like: list[tf.Tensor]) -> list[tf.Tensor]:
    """Undo `_joined`, for tensors of the shapes of others."""
    parts = tf.split(joined, [tf.size(tensor) for tensor in like]) if len(like) > 1 else [joined] * len(like)
    return [tf.reshape(part, tf.shape(tensor)) for part, tensor in zip(parts, like, strict=True)]


def _flat_shape(tensors: list[tf.Tensor]) -> tf.TensorShape:
    """Return the shape of tensors that are joined."""
    return tf.TensorShape([sum(tensor.shape.num_elements() for tensor in tensors)])


def _replaced(
    tensors: list[tf.Tensor], pack: list[int], bundles: list[list[int]], results: list[tf.Tensor]
) -> list[tf.Tensor]:
    """Return the tensors of a pack, of which those in bundles are replaced by what came for them."""
    new: dict[int, tf.Tensor] = {}
    for bundle, joined in zip(bundles, results, strict=True):
        new |= zip(bundle, _taken_apart(joined, [tensors[index] for index in bundle]), strict=True)
    return [new.get(index, tensors[index]) for index in pack]


def _add(summand: np.ndarray[Any, Any], total: np.ndarray[Any, Any]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # Loss scaling looks for infinities itself, as on one device.
        np.add(summand, total, out=total)


def _add_half(summand: np.ndarray[Any, Any], total: np.ndarray[Any, Any]) -> None:
    """Add with TensorFlow, copies included: NumPy takes eight times as long for float16 as for float32."""
    total[:] = tf.add(summand, total)
