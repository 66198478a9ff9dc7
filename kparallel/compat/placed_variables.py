"""Variables with a copy on each device of a column, or with one that a single replica holds."""

import abc
import copy
import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
            # The step combines what the replicas write, at its end; until then each has its own.
            return getattr(self._get_on_device_or_primary(), name)(value, *args, **kwargs)
        if self._by_replica():
            return inherited(self, value, *args, **kwargs)
        self.before_write()
        # Converted once, so that all copies get one value, also from a function that draws at random.
        if not isinstance(value, tf.IndexedSlices):
            value = tf.convert_to_tensor(value, self.dtype)
        return [getattr(each, name)(value, *args, **kwargs) for each in self._outside()][0]

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
            set_container(each, self)
        self.owners: weakref.WeakSet[Any] = weakref.WeakSet()  # What placed it here: the runtimes of wrapped models.

    def _by_replica(self) -> bool:
        """Tell whether the replica that is at work decides which copy is read and written."""
        return bool(tf.distribute.has_strategy())

    def _outside(self) -> tuple[tf.Variable, ...]:
        """Return the copies that are written where no replica is at work, the first of which is read."""
        return tuple(self.values)

    def before_write(self) -> None:
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
        return super()._get() if self._by_replica() else self._outside()[0]

    def _get_on_device_or_primary(self) -> Any:
        return super()._get_on_device_or_primary() if self._by_replica() else self._outside()[0]

    @property
    def handle(self) -> Any:
        """The resource that holds the value."""
        return super().handle if self._by_replica() else self._outside()[0].handle

    def read_value(self) -> Any:
        """Return the value as a tensor."""
        return super().read_value() if self._by_replica() else self._outside()[0].read_value()

    def __array__(self, dtype: Any = None) -> Any:
        return self._outside()[0].__array__(dtype)

    def __int__(self) -> int:
        return int(self._outside()[0])

    def __float__(self) -> float:
        return float(self._outside()[0])

    def __bool__(self) -> bool:
        return bool(self._outside()[0])

    def __complex__(self) -> complex:
        return complex(self._outside()[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._outside()[0], memo)


class SingleCopyVariable(PlacedVariable):
    """A variable with one copy, on the device of one replica, where all read and write it.

    A slot of a sharded optimizer is one.

    Args:
        strategy: The strategy of the variable whose slot it is.
        copies: The only copy.
    """

    def _by_replica(self) -> bool:
        return False


class BroughtVariable(PlacedVariable):
    """A weight with a copy on each replica while a step runs, that its owner alone holds between steps.

    Other threads, as one that makes a checkpoint ready, see it as it is between steps.

    Args:
        strategy: The strategy in whose steps it is used.
        copies: One variable for each replica of this process.
        between: What the weight is between steps.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, copies: Sequence[tf.Variable], between: SingleCopyVariable
    ) -> None:
        self.between = between
        super().__init__(strategy, copies)

    def _outside(self) -> tuple[tf.Variable, ...]:
        return tuple(self.between.values)

    def before_write(self) -> None:
        self.between.before_write()


class VariableAccess(abc.ABC):
    """What variables that the workers share out ask before they are read or written on one worker."""

    @abc.abstractmethod
    def before_read(self, variable: "VariableOfWorkers", in_graph: bool) -> None:
        """Bring all variables together, of which one is to be read that another worker may hold, or raise."""

    @abc.abstractmethod
    def before_write(self, variable: "VariableOfWorkers") -> None:
        """Bring all variables together, of which one is to be written, or raise."""

    @abc.abstractmethod
    def placed(self) -> None:
        """Take note that a variable has been placed, with its value on every worker."""


@dataclass(frozen=True)
class VariableOwner:
    """Who holds a variable that the workers share out.

    Args:
        replica: The index of the owner among the replicas of all workers.
        is_here: Whether it is a replica of this process.
        access: What the variable asks.
        is_weight: Whether it is a weight. Default False: it is a slot of an optimizer.
    """

    replica: int
    is_here: bool
    access: VariableAccess
    is_weight: bool = False


class VariableOfWorkers(SingleCopyVariable):
    """A variable that the workers share out: between steps it has a value on its owner's worker alone.

    It is a slot of a sharded optimizer, or with `shard="weights"` a weight. Where all workers pass, such variables come
    together: then each worker has the value, and it is an ordinary variable.

    Args:
        strategy: The strategy in whose steps it is used.
        copies: This worker's only copy.
        owner: Who holds it.
    """

    def __init__(self, strategy: tf.distribute.Strategy, copies: Sequence[tf.Variable], owner: VariableOwner) -> None:
        self._held: tuple[tf.Variable, ...] | None = None
        first = copies[0]
        self._shape_of_value, self._dtype_of_value, self._name_of_value = first.shape, first.dtype, first.name
        self._unique_id_of_value, self._is_trainable = first._unique_id, first.trainable
        self.owner = owner
        super().__init__(strategy, copies)

    @property
    def _values(self) -> tuple[tf.Variable, ...]:
        # A graph would keep the copy that is here now, and read it after later steps. A step has the weights as
        # arguments of its stages, so the owner's worker refuses such a read too: no worker goes on alone.
        in_graph = not tf.executing_eagerly() and (self.owner.is_weight or not self.owner.is_here)
        if in_graph or tf.executing_eagerly() or self._held is None:
            self.owner.access.before_read(self, in_graph)
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

    @property
    def _unique_id(self) -> Any:
        """That by which optimizers know it, also where the value is elsewhere."""
        return self._unique_id_of_value

    @property
    def trainable(self) -> bool:
        """Whether tapes watch it, also where the value is elsewhere."""
        return bool(self._is_trainable)

    @property
    def local_copies(self) -> tuple[tf.Variable, ...]:
        """The copy of the owner, or one of the value where all have come together; else none. A step may use it."""
        return self._held or ()

    def before_write(self) -> None:
        if tf.executing_eagerly():  # In a step the owner's worker writes.
            self.owner.access.before_write(self)

    def local_value(self) -> tf.Tensor | None:
        """Return the value where the owner is a replica of this process, else None."""
        if not self.owner.is_here or self._held is None:  # There is none while it is made.
            return None
        with tf.device(self._held[0].device):
            return self._held[0].read_value()

    def receive(self, value: tf.Tensor) -> None:
        """Hold a value on this worker's host that the owner has sent."""
        with tf.device("CPU:0"), tf.init_scope():
            copy = tf.Variable(value, dtype=self.dtype, trainable=self.trainable, name=self.name.split(":")[0])
        copy._unique_id = self._unique_id_of_value
        set_container(copy, self)
        self._held = (copy,)

    def release(self) -> None:
        """Drop what another worker holds."""
        if not self.owner.is_here:
            self._held = None


def set_container(single: tf.Variable, container: Any) -> None:
    """Say of which variable with copies a single variable is one; of none for None.

    TensorFlow notes it on the handle, or on the variable where that was made in a function, as slots are.
    """
    for place in (single, single.handle):
        if place is single.handle and container is not None:
            place._distributed_container = weakref.ref(container)
        elif "_distributed_container" in vars(place):
            del place._distributed_container
