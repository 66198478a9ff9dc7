"""Moves Keras variables to the devices of a column, and tells where they lie."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.placed_variables import (
    BroughtVariable,
    PlacedVariable,
    SingleCopyVariable,
    VariableOfWorkers,
    VariableOwner,
    set_container,
)

__all__: list[str] = []


def own_device(device: str, name: str) -> bool:
    """Tell whether a device is the one that a name means, which may leave out the worker."""
    full = tf.DeviceSpec.from_string(device)
    return bool(full.make_merged_spec(tf.DeviceSpec.from_string(name)) == full)


def place_variable(
    variable: keras.Variable,
    strategy: tf.distribute.Strategy,
    devices: Sequence[str],
    single: bool = False,
    owner: VariableOwner | None = None,
    is_equal: bool = False,
) -> Any:
    """Give a Keras variable one copy on each device of a column, with the same value.

    The variable that it had stays the copy on its device, so that functions traced before read the present value.

    Args:
        variable: It must be initialized.
        strategy: In whose steps it will be used.
        devices: The column; of a variable with a single copy its device alone.
        single: Whether all replicas read and write a single copy. Default False.
        owner: Who holds it, for a variable that the workers share out. Default None.
        is_equal: Whether its value is the same on all workers already. Default False: in a cluster all workers make
            this call together, and take the chief's value.

    Returns:
        What it was, for `restore_variable`; None if it lies there already.
    """
    old = variable._value
    if is_placed(variable, strategy, devices, single, owner):
        return None
    former = list(old.values) if isinstance(old, tf.distribute.DistributedValues) else [old]
    value = former[0] if is_equal else _from_chief(strategy, former[0])
    copies = []
    for device in devices:
        # A copy that lies on the device already stays the same object: it may be captured by functions traced before.
        same = next((each for each in former if own_device(each.device, device)), None)
        if same is None:
            same = copy_on(device, value, like=former[0])
        # In a cluster the chief's value counts, also for a copy that stays.
        elif value is not former[0]:
            same.assign(value)
        copies.append(same)
    copies[0]._unique_id = former[0]._unique_id  # By which optimizers know a weight.
    _note_left(former, copies)
    if owner is None:
        variable._value = (SingleCopyVariable if single else PlacedVariable)(strategy, copies)
    else:
        variable._value = VariableOfWorkers(strategy, copies, owner)
        owner.access.placed()
    return old


def copy_on(device: str, value: Any, like: tf.Variable) -> tf.Variable:
    """Return a new variable of a value on a device, of the kind and name of another one."""
    # The whole name, with the layer's: by it Keras finds the weights that a decay leaves out.
    name = like.name.split(":")[0]
    with tf.device(device), tf.init_scope(), tf.name_scope(""):
        return tf.Variable(value, dtype=like.dtype, trainable=like.trainable, name=name)


def _from_chief(strategy: tf.distribute.Strategy, value: tf.Variable) -> Any:
    """Return the chief's value of a variable in a cluster; on one machine the variable itself."""
    # On one machine there is nothing to agree on.
    if not hasattr(strategy, "cluster_resolver") or strategy.cluster_resolver is None:
        return value
    creator = strategy.extended._get_variable_creator_initial_value
    device = strategy.extended.worker_devices[0]
    return creator(replica_id=0, device=device, primary_var=None, initial_value=value.read_value(), dtype=value.dtype)()


def restore_variable(variable: keras.Variable, old: Any) -> None:
    """Undo `place_variable`."""
    variable._value = old
    held = isinstance(old, tf.distribute.DistributedValues)
    _note_left([], old.values if held else [old])
    for each in old.values if held else [old]:
        set_container(each, old if held else None)


def _note_left(former: Sequence[tf.Variable], present: Sequence[tf.Variable]) -> None:
    """Take note of which TensorFlow variables a Keras variable has no more, and which it has."""
    for each in former:
        each.handle._left = True
    for each in present:
        each.handle._left = False


def is_left(handle: Any) -> bool:
    """Tell whether a resource was one of a Keras variable's that has moved to others: its value is an old one."""
    return bool(getattr(handle, "_left", False))


def empty_former(former: Any) -> None:
    """Empty the single copy that a Keras variable had before it moved, unless it has it still.

    A function traced before the move would read an old value. It fails in place of that, and holds no memory.

    Args:
        former: What the Keras variable held.
    """
    if type(former) is SingleCopyVariable:
        with tf.init_scope():  # A loop of one's own may place variables while it is traced.
            for copy in former.values:
                if is_left(copy.handle):
                    empty_copy(copy)


def gather_variable(variable: keras.Variable, device: str) -> None:
    """Give a placed Keras variable a single TensorFlow variable on a device, its copy there if it has one."""
    placed = variable._value
    single = next((each for each in placed.values if own_device(each.device, device)), None)
    if single is None:
        single = copy_on(device, placed.values[0], like=placed.values[0])
    single._unique_id = placed._unique_id
    _note_left(placed.values, [single])
    set_container(single, None)
    variable._value = single
    empty_former(placed)


def placed_value(variable: keras.Variable) -> PlacedVariable | None:
    """Return the copies of a placed variable, or None."""
    return variable._value if isinstance(variable._value, PlacedVariable) else None


def variable_of_workers(variable: keras.Variable) -> VariableOfWorkers | None:
    """Return what a Keras variable holds that the workers share out, a slot or a weight; None for any other."""
    return variable._value if isinstance(variable._value, VariableOfWorkers) else None


def is_of_workers_between_steps(variable: keras.Variable) -> bool:
    """Tell whether the workers share a variable out between steps, also while one runs in another thread."""
    value = variable._value
    return isinstance(value.between if isinstance(value, BroughtVariable) else value, VariableOfWorkers)


def copies_of(variable: keras.Variable) -> tuple[tf.Variable, ...]:
    """Return the copies of a placed variable on this process's devices, in the order of the replicas."""
    owned = variable_of_workers(variable)
    return tuple(variable._value.values if owned is None or not owned.local_copies else owned.local_copies)


def is_initialized(variable: keras.Variable) -> bool:
    """Tell whether a Keras variable has its TensorFlow variable yet."""
    return variable._value is not None


def has_single_copy(variable: keras.Variable) -> bool:
    """Tell whether all replicas read and write a single copy of a variable."""
    return isinstance(variable._value, SingleCopyVariable)


def has_copy_on(variable: keras.Variable, device: str) -> bool:
    """Tell whether a placed variable has a copy on a device; not while another worker holds the only one."""
    owned = variable_of_workers(variable)
    if owned is not None and not owned.owner.is_here:
        return False
    return any(own_device(each.device, device) for each in copies_of(variable))


def fill_copy(copy: tf.Variable, value: tf.Tensor) -> None:
    """Give a copy a value, also one that is empty."""
    # `assign` compares the value's shape with that of what the copy holds, which is empty.
    tf.raw_ops.AssignVariableOp(resource=copy.handle, value=value)


def empty_copy(copy: tf.Variable) -> None:
    """Let a copy hold nothing, and take no memory."""
    # A graph would not take a value that is known to have another shape.
    nothing = tf.raw_ops.PlaceholderWithDefault(input=tf.zeros([0], copy.dtype), shape=tf.TensorShape(None))
    tf.raw_ops.AssignVariableOp(resource=copy.handle, value=nothing)


def is_placed(
    variable: keras.Variable,
    strategy: tf.distribute.Strategy,
    devices: Sequence[str] | None,
    single: bool = False,
    owner: VariableOwner | None = None,
) -> bool:
    """Tell whether a variable has its copies on the devices of a column, or on any column of the strategy for None.

    Args:
        variable: The variable.
        strategy: In whose steps it is used.
        devices: The devices of the column, or None.
        single: Whether all replicas are to read and write a single copy. Default False.
        owner: Who is to hold it, of a variable that the workers share out. Default None.
    """
    placed = variable._value
    if owner is not None:  # As all workers say, of which one may have it on another device.
        return type(placed) is VariableOfWorkers and placed.distribute_strategy is strategy and placed.owner == owner
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
    # A placed variable is one of TensorFlow's distributed variables too, and kparallel's own.
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
