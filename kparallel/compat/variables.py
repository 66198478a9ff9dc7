"""Variables with a copy on each device of a column."""

import abc
import copy
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.distribute.values import MirroredVariable, OnWritePolicy

from kparallel.compat.distribute import OneReplica

__all__: list[str] = []


def _writing_all(name: str) -> Callable[..., Any]:
    """Return a method of `PlacedVariable` that writes to all copies where no strategy is entered."""
    inherited = getattr(MirroredVariable, name)

    @functools.wraps(inherited)
    def write(self: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tf.distribute.get_strategy(), OneReplica):  # A replica that runs a step of the user's own.
            return getattr(self._get_on_device_or_primary(), name)(value, *args, **kwargs)
        if self._by_replica():
            return inherited(self, value, *args, **kwargs)
        self._before_write()
        if not isinstance(value, tf.IndexedSlices):
            value = tf.convert_to_tensor(value, self.dtype)
        return [getattr(each, name)(value, *args, **kwargs) for each in self.values][0]

    return write


class PlacedVariable(MirroredVariable):  # type: ignore[misc]
    """A variable with one copy on each device of a column, which outside a step is an ordinary variable.

    In a step each replica reads and writes its own copy, and the step keeps them equal. Everywhere else all copies
    are written and the first is read, so that plain models, tapes and optimizers train it as they train any other.

    Args:
        strategy: The strategy in whose steps it is used.
        copies: One variable for each replica of this process, equal.
    """

    def __init__(self, strategy: tf.distribute.Strategy, copies: Sequence[tf.Variable]) -> None:
        aggregation = tf.VariableAggregation.NONE
        super().__init__(strategy, tuple(copies), aggregation, var_policy=OnWritePolicy(aggregation))
        for each in copies:
            _set_container(each, self)
        self.owners: weakref.WeakSet[Any] = weakref.WeakSet()  # What placed it here: the runtimes of wrapped models.

    def _by_replica(self) -> bool:
        """Tell whether the replica that is at work decides which copy is read and written."""
        return bool(tf.distribute.has_strategy())

    def _before_write(self) -> None:
        """Is called before all copies are written."""

    assign = _writing_all("assign")
    assign_add = _writing_all("assign_add")
    assign_sub = _writing_all("assign_sub")
    scatter_add = _writing_all("scatter_add")
    scatter_sub = _writing_all("scatter_sub")
    scatter_mul = _writing_all("scatter_mul")
    scatter_div = _writing_all("scatter_div")
    scatter_min = _writing_all("scatter_min")
    scatter_max = _writing_all("scatter_max")
    scatter_update = _writing_all("scatter_update")

    def _get(self) -> Any:
        return super()._get() if self._by_replica() else self.values[0]

    def _get_on_device_or_primary(self) -> Any:
        return super()._get_on_device_or_primary() if self._by_replica() else self.values[0]

    @property
    def handle(self) -> Any:
        """The resource that holds the value."""
        return super().handle if self._by_replica() else self.values[0].handle

    def read_value(self) -> Any:
        """Return the value as a tensor."""
        return super().read_value() if self._by_replica() else self.values[0].read_value()

    def __array__(self, dtype: Any = None) -> Any:
        return self.values[0].__array__(dtype)

    def __int__(self) -> int:
        return int(self.values[0])

    def __float__(self) -> float:
        return float(self.values[0])

    def __bool__(self) -> bool:
        return bool(self.values[0])

    def __complex__(self) -> complex:
        return complex(self.values[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.values[0], memo)


class SingleCopyVariable(PlacedVariable):
    """A variable with one copy, on the device of one replica, where all read and write it.

    A slot of a sharded optimizer is one.

    Args:
        strategy: The strategy of the variable whose slot it is.
        copies: The only copy.
    """

    def _by_replica(self) -> bool:
        return False


class SlotAccess(abc.ABC):
    """What the slots of an optimizer that is sharded over workers ask before they are read or written on one worker."""

    @abc.abstractmethod
    def before_read(self, name: str, in_graph: bool) -> None:
        """Bring all slots together, of which one is to be read that another worker holds, or raise."""

    @abc.abstractmethod
    def before_write(self, name: str) -> None:
        """Bring all slots together, of which one is to be written, or raise."""

    @abc.abstractmethod
    def placed(self) -> None:
        """Take note that a slot has been placed, with its value on every worker."""


@dataclass(frozen=True)
class SlotOwner:
    """Who holds a slot of an optimizer that is sharded over workers.

    Args:
        replica: The index of the owner among the replicas of all workers.
        is_here: Whether it is a replica of this process.
        access: What the slot asks.
    """

    replica: int
    is_here: bool
    access: SlotAccess


class SlotOfWorkers(SingleCopyVariable):
    """A slot of an optimizer that is sharded over workers: between steps it has a value on its owner's worker alone.

    Where all workers pass, the slots come together: then each worker has the value, and it is an ordinary variable.

    Args:
        strategy: The strategy of the variable whose slot it is.
        copies: This worker's only copy.
        owner: Who holds it.
    """

    def __init__(self, strategy: tf.distribute.Strategy, copies: Sequence[tf.Variable], owner: SlotOwner) -> None:
        self._held: tuple[tf.Variable, ...] | None = None
        first = copies[0]
        self._shape_of_value, self._dtype_of_value, self._name_of_value = first.shape, first.dtype, first.name
        self._unique_id_of_value = first._unique_id
        self.owner = owner
        super().__init__(strategy, copies)

    @property
    def _values(self) -> tuple[tf.Variable, ...]:
        in_graph = not tf.executing_eagerly()  # It would keep the copy that is here now, and read it after later steps.
        if not self.owner.is_here and (self._held is None or in_graph):
            self.owner.access.before_read(self.name, in_graph)
        assert self._held is not None
        return self._held

    @_values.setter
    def _values(self, copies: tuple[tf.Variable, ...]) -> None:
        self._held = copies

    @property
    def shape(self) -> tf.TensorShape:
        """The shape, also where the value is elsewhere."""
        return self._shape_of_value

    @property
    def dtype(self) -> tf.DType:
        """The dtype, also where the value is elsewhere."""
        return self._dtype_of_value

    @property
    def name(self) -> str:
        """The name, also where the value is elsewhere."""
        return str(self._name_of_value)

    def _before_write(self) -> None:
        if tf.executing_eagerly():  # In a step the owner's worker writes.
            self.owner.access.before_write(self.name)

    def local_value(self) -> tf.Tensor | None:
        """Return the value where the owner is a replica of this process, else None."""
        return self._held[0].read_value() if self.owner.is_here and self._held is not None else None

    def receive(self, value: tf.Tensor) -> None:
        """Hold a value on this worker's host that the owner has sent."""
        with tf.device("CPU:0"), tf.init_scope():
            copy = tf.Variable(value, dtype=self.dtype, trainable=False, name=self.name.split(":")[0])
        copy._unique_id = self._unique_id_of_value
        _set_container(copy, self)
        self._held = (copy,)

    def release(self) -> None:
        """Drop what another worker holds."""
        if not self.owner.is_here:
            self._held = None


def own_device(device: str, name: str) -> bool:
    """Tell whether a device is the one that a name means, which may leave out the worker."""
    full = tf.DeviceSpec.from_string(device)
    return bool(full.make_merged_spec(tf.DeviceSpec.from_string(name)) == full)


def place_variable(
    variable: keras.Variable,
    strategy: tf.distribute.Strategy,
    devices: Sequence[str],
    single: bool = False,
    owner: SlotOwner | None = None,
) -> Any:
    """Give a Keras variable one copy on each device of a column, with the same value.

    The variable that it had stays the copy on its device, so that functions traced before read the present value.

    Args:
        variable: It must be initialized.
        strategy: In whose steps it will be used.
        devices: The column; of a variable with a single copy its device alone.
        single: Whether all replicas read and write a single copy. Default False.
        owner: Who holds it, for a slot of an optimizer that is sharded over workers. Default None.

    Returns:
        What it was, for `restore_variable`; None if it lies there already.
    """
    old = variable._value
    if is_placed(variable, strategy, devices, single, owner):
        return None
    former = list(old.values) if isinstance(old, tf.distribute.DistributedValues) else [old]
    value = _from_chief(strategy, former[0])
    copies = []
    for device in devices:
        same = next((each for each in former if own_device(each.device, device)), None)
        if same is None:
            with tf.device(device), tf.init_scope():
                same = tf.Variable(value, dtype=old.dtype, trainable=old.trainable, name=variable.name)
        elif value is not former[0]:
            same.assign(value)
        copies.append(same)
    copies[0]._unique_id = former[0]._unique_id  # By which optimizers know a weight.
    if owner is None:
        variable._value = (SingleCopyVariable if single else PlacedVariable)(strategy, copies)
    else:
        variable._value = SlotOfWorkers(strategy, copies, owner)
        owner.access.placed()
    return old


def _from_chief(strategy: tf.distribute.Strategy, value: tf.Variable) -> Any:
    """Return the chief's value of a variable in a cluster; on one machine the variable itself."""
    if not hasattr(strategy, "cluster_resolver") or strategy.cluster_resolver is None:
        return value
    creator = strategy.extended._get_variable_creator_initial_value
    device = strategy.extended.worker_devices[0]
    return creator(replica_id=0, device=device, primary_var=None, initial_value=value.read_value(), dtype=value.dtype)()


def restore_variable(variable: keras.Variable, old: Any) -> None:
    """Undo `place_variable`."""
    variable._value = old
    held = isinstance(old, tf.distribute.DistributedValues)
    for each in old.values if held else [old]:
        _set_container(each, old if held else None)


def gather_variable(variable: keras.Variable, device: str) -> None:
    """Give a placed Keras variable a single TensorFlow variable on a device, its copy there if it has one."""
    placed = variable._value
    single = next((each for each in placed.values if own_device(each.device, device)), None)
    if single is None:
        with tf.device(device), tf.init_scope():
            first = placed.values[0]
            single = tf.Variable(first, dtype=first.dtype, trainable=first.trainable, name=variable.name)
    single._unique_id = placed._unique_id
    _set_container(single, None)
    variable._value = single


def _set_container(single: tf.Variable, container: Any) -> None:
    """Say of which variable with copies a single variable is one; of none for None.

    TensorFlow notes it on the handle, or on the variable where that was made in a function, as slots are.
    """
    for place in (single, single.handle):
        if place is single.handle and container is not None:
            place._distributed_container = weakref.ref(container)
        elif "_distributed_container" in vars(place):
            del place._distributed_container


def placed_value(variable: keras.Variable) -> PlacedVariable | None:
    """Return the copies of a placed variable, or None."""
    return variable._value if isinstance(variable._value, PlacedVariable) else None


def slot_of_workers(variable: keras.Variable) -> SlotOfWorkers | None:
    """Return the slot of an optimizer that is sharded over workers that a Keras variable holds, or None."""
    return variable._value if isinstance(variable._value, SlotOfWorkers) else None


def copies_of(variable: keras.Variable) -> tuple[tf.Variable, ...]:
    """Return the copies of a placed variable on this process's devices, in the order of the replicas."""
    return tuple(variable._value.values)


def is_initialized(variable: keras.Variable) -> bool:
    """Tell whether a Keras variable has its TensorFlow variable yet."""
    return variable._value is not None


def has_single_copy(variable: keras.Variable) -> bool:
    """Tell whether all replicas read and write a single copy of a variable."""
    return isinstance(variable._value, SingleCopyVariable)


@contextmanager
def one_copy_each(chosen: Sequence[tuple[keras.Variable, int]]) -> Iterator[None]:
    """Let placed Keras variables be one of their copies each: an ordinary variable on that copy's device.

    Args:
        chosen: Each variable with the index of its copy.
    """
    placed = [(variable, variable._value) for variable, _ in chosen]
    for variable, index in chosen:
        variable._value = variable._value.values[index]
    try:
        yield
    finally:
        for variable, value in placed:
            variable._value = value


def is_placed(
    variable: keras.Variable,
    strategy: tf.distribute.Strategy,
    devices: Sequence[str] | None,
    single: bool = False,
    owner: SlotOwner | None = None,
) -> bool:
    """Tell whether a variable has its copies on the devices of a column, or on any column of the strategy for None.

    Args:
        variable: The variable.
        strategy: In whose steps it is used.
        devices: The devices of the column, or None.
        single: Whether all replicas are to read and write a single copy. Default False.
        owner: Who is to hold it, of a slot of an optimizer that is sharded over workers. Default None.
    """
    placed = variable._value
    if owner is not None:  # As all workers say, of which one may have it on another device.
        return type(placed) is SlotOfWorkers and placed.distribute_strategy is strategy and placed.owner == owner
    if type(placed) is not (SingleCopyVariable if single else PlacedVariable):
        return False
    if placed.distribute_strategy is not strategy:
        return False
    return devices is None or (
        len(devices) == len(placed.values)
        and all(own_device(each.device, name) for each, name in zip(placed.values, devices, strict=True))
    )


def foreign_strategy(variable: keras.Variable) -> tf.distribute.Strategy | None:
    """Return the strategy of the user's own that holds a variable, or None."""
    value = variable._value
    held = isinstance(value, tf.distribute.DistributedValues) and not isinstance(value, PlacedVariable)
    return value.distribute_strategy if held else None


def is_copy(handle: Any) -> bool:
    """Tell whether a resource is one copy of a variable that has one on each replica."""
    container = getattr(handle, "_distributed_container", None)
    variable = None if container is None else container()
    return variable is not None and not isinstance(variable, SingleCopyVariable)


def copies_beside(handle: Any) -> list[Any] | None:
    """Return the handles of all copies of the variable of which a resource is one copy, or None if it is none."""
    if not is_copy(handle):
        return None
    return [each.handle for each in handle._distributed_container().values]


def assign_directly(variable: keras.Variable, value: Any) -> None:
    """Assign a Keras variable, past any scope that holds assignments back."""
    variable._direct_assign(value)


def resource_name(handle: Any) -> str:
    """Return the name of the variable that a resource belongs to."""
    return str(getattr(handle, "_unique_id", "?")).rpartition("_")[0] or "?"
