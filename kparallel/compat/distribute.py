"""Strategies and collectives of TensorFlow."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import cross_device_ops, distribute_lib, values, values_util

__all__: list[str] = []


@functools.cache
def mirrored(devices: tuple[str, ...], collectives: bool = True) -> tf.distribute.Strategy:
    """Return the `MirroredStrategy` of some devices, one in a process, so that models on the same devices share layers.

    TensorFlow numbers the groups of each strategy from the same key and the collectives of a group from another, and
    refuses two of one number that differ in devices or dtype, as a synchronized BatchNorm's would. So each strategy
    starts from a number of its own. A strategy of the user's starts from 0, and makes a handful of groups, as all do.

    Args:
        devices: One for each replica.
        collectives: Whether what layers sum over the replicas, as a synchronized BatchNorm does, is summed by
            TensorFlow's collectives. In one program over several machines these do not find the devices, and wait for
            ever; there the sums are made on the first device. Default True.
    """

    class Keyed(tf.distribute.MirroredStrategy):  # type: ignore[misc]
        # The number of strategies made before, times the groups that one may need.
        _collective_key_base = 16 * (1 + mirrored.cache_info().currsize)

    return Keyed(list(devices), None if collectives else tf.distribute.ReductionToOneDevice())


@contextmanager
def local_updates(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Let the optimizer update each replica's own copy, without TensorFlow's `merge_call`.

    TensorFlow takes this path itself under XLA on GPUs. It makes control flow around an update legal
    (gradient accumulation, averages, loss scaling), which a `merge_call` forbids.
    """
    extended = strategy.extended
    # The attribute of the instance hides the method of the class; deleting it afterwards brings the method back.
    extended._use_merge_call = lambda: False
    try:
        yield
    finally:
        del extended._use_merge_call


def local_replica() -> int:
    """Return the index of the present replica among those of this process. Call it in a replica's context."""
    return int(values_util.get_current_replica_id_as_int())


def reads_replica_number(operation: tf.Operation) -> bool:
    """Tell whether an operation gives the number of the replica that is traced to another one."""
    # TensorFlow makes it a constant of this name wherever it is asked for.
    named = operation.name.rpartition("/")[2].startswith("replica_id_in_sync_group")
    return named and any(output.consumers() for output in operation.outputs)


@contextmanager
def updates_without_devices(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Let an update be traced without the devices of the variables, so that it runs where the function is called.

    Enter it inside `local_updates`.
    """
    extended = strategy.extended

    def update(variable: Any, function: Any, args: Any, kwargs: Any, group: bool) -> Any:
        if isinstance(variable, values.DistributedVariable):
            # The copy of the replica that traces. Under `variable.device` the trace would hold that one device.
            variable = variable._get_replica(local_replica())
        return function(variable, *args, **kwargs)

    extended._replica_ctx_update = update
    try:
        yield
    finally:
        del extended._replica_ctx_update


@contextmanager
def one_replica_view() -> Iterator[None]:
    """Let Keras's losses see one replica, so that they do not divide by the number of replicas."""
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()


class CollectiveReducer:
    """TensorFlow's collectives over one group of devices, launched from replica context.

    Args:
        devices: This worker's devices of the group.
        strategy: The strategy whose collective keys number the launches.
        group_size: Devices of all workers together.
        options: TensorFlow's communication options.
    """

    def __init__(self, devices: Sequence[str], strategy: tf.distribute.Strategy, group_size: int, options: Any) -> None:
        keys = strategy.extended._collective_keys
        self._options = options
        self._reducer = cross_device_ops.CollectiveAllReduce(devices, group_size, options, keys)

    def sum(self, packs: list[list[tf.Tensor]], local_index: int) -> list[tf.Tensor]:
        """Sum each tensor over the group; a pack's tensors, of one dtype, travel as one."""
        return list(self._reducer._launchers[local_index].batch_all_reduce(packs, self._options))

    def sum_slices(self, value: tf.IndexedSlices, local_index: int) -> tf.IndexedSlices:
        """Return the slices of the whole group."""
        whole: tf.IndexedSlices = self._reducer._launchers[local_index].all_reduce_indexed_slices(value, self._options)
        return whole

    def gather_equal(self, value: tf.Tensor, local_index: int) -> tf.Tensor:
        """Concatenate all replicas' rows, in order, of which each has as many: one collective."""
        return self._reducer._launchers[local_index]._all_gather(value, self._options)

    def gather(self, value: tf.Tensor, local_index: int) -> tf.Tensor:
        """Concatenate all replicas' rows, in order: two collectives."""
        return self._reducer._launchers[local_index].all_gather(value, 0, self._options)


def dataset_strategy(dataset: tf.distribute.DistributedDataset) -> tf.distribute.Strategy:
    """Return the strategy that distributed a dataset."""
    return dataset._strategy


def replica_spec(spec: Any) -> Any:
    """Return the spec of one replica's part of a dataset's element; None for a part that holds nothing."""
    parts = getattr(spec, "_value_specs", None)  # Of a PerReplica, which a distributed dataset yields.
    spec = spec if parts is None else parts[0]
    return spec if hasattr(spec, "shape") and hasattr(spec, "dtype") else None


class OneReplica:
    """A strategy that says of itself that it has one replica.

    Args:
        strategy: Gives everything else.
    """

    num_replicas_in_sync = 1

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)


@contextmanager
def whole_losses() -> Iterator[None]:
    """Let no loss of Keras's that a layer or another loss calls divide by the number of replicas.

    What else a layer asks of its replica, it gets of it: only the number of replicas is 1.
    """
    mode = distribute_lib._get_per_thread_mode()
    # Outside of a replica there is no number to hide.
    if mode.replica_context is None or mode.strategy.num_replicas_in_sync == 1:
        yield
        return
    distribute_lib._push_per_thread_mode(
        distribute_lib._ThreadMode(OneReplica(mode.strategy), mode.cross_replica_context, mode.replica_context)
    )
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()
