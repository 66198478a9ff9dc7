"""Lets Keras variables hold other copies for a while: one of theirs, or one on each replica beside that of an owner."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from kparallel.compat.placed_variables import BroughtVariable, PlacedVariable, VariableOfWorkers, set_container
from kparallel.compat.variables import copies_of, copy_on, empty_copy, variable_of_workers

__all__: list[str] = []


@contextmanager
def one_copy_each(chosen: Sequence[tuple[keras.Variable, int]]) -> Iterator[None]:
    """Let placed Keras variables be one of their copies each: an ordinary variable on that copy's device.

    Args:
        chosen: Each variable with the index of its copy.
    """
    # The Keras variable stays; only what it holds is exchanged for a while.
    placed = [(variable, variable._value) for variable, _ in chosen]
    for variable, index in chosen:
        variable._value = copies_of(variable)[index]
    try:
        yield
    finally:
        for variable, value in placed:
            variable._value = value


def copies_beside_owner(variable: keras.Variable, devices: Sequence[str], owner: int) -> PlacedVariable:
    """Return what has a copy of a weight on each device of a column, for a weight that its owner alone holds.

    The owner's copy is the one that there is. The others are empty, and take no memory, until they are filled.

    Args:
        variable: The weight.
        devices: The column: a device for each replica of this process.
        owner: The index of the owner's in `devices`; another worker has it where there is none of that index.
    """
    placed = variable._value
    owned = variable_of_workers(variable)
    held = placed.values if owned is None else owned.local_copies
    copies = []
    for index, device in enumerate(devices):
        if index == owner:
            copies.append(held[0])
            continue
        with tf.init_scope():  # A loop of one's own makes the call while it is traced.
            empty = copy_on(device, tf.zeros(placed.shape, placed.dtype), like=placed)
            empty_copy(empty)
        empty._unique_id = placed._unique_id  # By which optimizers know a weight.
        copies.append(empty)
    found = BroughtVariable(placed.distribute_strategy, copies, placed)
    for copy in held:
        set_container(copy, placed)  # Until the copies take its place.
    return found


@contextmanager
def copies_in_place(chosen: Sequence[tuple[keras.Variable, PlacedVariable]]) -> Iterator[None]:
    """Let Keras variables be others with a copy on each device for a while, as `copies_beside_owner` makes them."""
    before = [(variable, variable._value) for variable, _ in chosen]
    for variable, placed in chosen:
        variable._value = placed
        for copy in placed.values:
            set_container(copy, placed)
    try:
        yield
    finally:
        for variable, value in before:
            variable._value = value
            owned = variable_of_workers(variable)
            for copy in value.values if owned is None else owned.local_copies:
                set_container(copy, value)


@contextmanager
def as_ordinary(variables: Sequence[keras.Variable], traces_alone: bool = False) -> Iterator[None]:
    """Let variables that the workers share out be ordinary ones, where this worker has their values.

    A function that reads them can then be traced. It keeps what they are now, so it must not run after later steps.

    Args:
        variables: They may be any.
        traces_alone: Whether such a function never runs: variables whose values are elsewhere are then ordinary ones
            without a value. Default False.
    """
    shared = [(variable, owned) for variable in variables if (owned := variable_of_workers(variable)) is not None]
    missing = [(variable, owned) for variable, owned in shared if traces_alone and not owned.local_copies]
    with one_copy_each([(variable, 0) for variable, owned in shared if owned.local_copies]):
        for variable, owned in missing:
            variable._value = _without_value(owned)
        try:
            yield
        finally:
            for variable, owned in missing:
                variable._value = owned


def _without_value(owned: VariableOfWorkers) -> tf.Variable:
    """Return a variable that takes no memory, in the place of one that another worker holds."""
    with tf.init_scope():
        made = UninitializedVariable(shape=owned.shape, dtype=owned.dtype, name=owned.name.split(":")[0])
    made._unique_id = owned._unique_id
    return made
