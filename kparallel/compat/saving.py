"""Keras's weight files, written from a snapshot while training goes on."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.saving import saving_lib

from kparallel.checkpoint.hdf5_file import Hdf5File
from kparallel.compat.functions import traced
from kparallel.compat.optimizers import optimizers_in
from kparallel.compat.variables import is_of_workers_between_steps

__all__: list[str] = []


@dataclass(frozen=True)
class Entry:
    """What a weight file holds at one place.

    Args:
        path: Of the group.
        metadata: Of the group.
        key: Of the value; empty for a group's start.
        value: What will not change: a tensor or an array; in a plan the variable.
    """

    path: str
    metadata: dict[str, Any] | None
    key: str = ""
    value: Any = None


class WeightFile:
    """Tells what `model.save_weights` would write, and what it leaves out.

    Where each value lies is found out once for the same variables. Once it is prepared, all are read in one call: a
    call for each takes most of the time for which training stands still.

    Args:
        model: Built and compiled; wrapped or plain.
        left_out: Returns what belongs to the model and is no part of the file.
    """

    def __init__(
        self, model: keras.Model, left_out: Callable[[keras.Model], list[keras.Variable]] | None = None
    ) -> None:
        self.model = model
        self._left_out = left_out
        self._planned: list[Any] = []
        self._plan: list[Entry] = []
        self._rest: list[keras.Variable] = []
        self._read: Callable[[], list[tf.Tensor]] | None = None

    def capture(self) -> tuple[list[Entry], list[tf.Tensor]]:
        """Return what would be written now, the optimizer's variables too, and what is left out.

        Later steps do not change either.
        """
        variables = [*self.model.variables, *getattr(self.model.optimizer, "variables", [])]
        # Compiled anew, or with layers made since: the places of an old plan would be those of other variables.
        if list(map(id, variables)) != list(map(id, self._planned)):
            self._plan_anew(variables)
        values = iter(self._values() if self._read is None else self._read())
        plan = self._plan
        # Such a value is of the moment when the plan was made.
        if any(entry.key and not isinstance(entry.value, keras.Variable) for entry in plan):
            plan = _plan(self.model)  # A layer computes what it saves.
        fixed = [replace(entry, value=next(values)) if _is_variable(entry) else entry for entry in plan]
        return fixed, list(values)

    def _plan_anew(self, variables: list[Any]) -> None:
        self._plan, self._planned = _plan(self.model), variables
        self._rest = [] if self._left_out is None else self._left_out(self.model)
        self._read = None

    def prepare(self) -> None:
        """Make the one call by which later captures of the same variables read them. Nothing is captured meanwhile."""
        # Slots that other workers hold between steps come together where they are read, one by one.
        everything = [*(entry.value for entry in self._plan if _is_variable(entry)), *self._rest]
        if self._read is None and not any(map(is_of_workers_between_steps, everything)):
            self._read = traced(self._values).get_concrete_function()

    def _values(self) -> list[tf.Tensor]:
        variables = [*(entry.value for entry in self._plan if _is_variable(entry)), *self._rest]
        return [_fixed_value(variable) for variable in variables]


def _is_variable(entry: Entry) -> bool:
    return isinstance(entry.value, keras.Variable)


def _fixed_value(variable: keras.Variable) -> tf.Tensor:
    """Return a variable's value as a tensor of the host, which no later step changes."""
    value = variable.value.read_value()  # A tensor never changes: what writes to the variable makes another.
    if "device:GPU" not in variable.value.device:
        return value
    with tf.device("CPU:0"):
        return tf.identity(value)


def write_weights(entries: Sequence[Entry], path: Path) -> None:
    """Write what was captured, as `model.save_weights` would have written it then.

    Args:
        entries: Of a `WeightFile`.
        path: Ends in `.weights.h5`.

    Raises:
        OSError: It cannot be written, as on a full disk.
    """
    with Hdf5File(path) as file:
        store = saving_lib.H5IOStore(file, mode="w")
        try:
            for entry in entries:
                if file.error is not None:
                    break
                if entry.key:
                    store[entry.key] = entry.value
                else:
                    store.make(entry.path, metadata=entry.metadata)
        finally:
            store.close()
    if file.error is not None:
        raise file.error


def load_weights(model: keras.Model, path: Path) -> None:
    """Load a weight file as `model.load_weights` does, also into a model without a `call`, as many a GAN is.

    Keras never takes such a model for built, whose layers may be.
    """
    built = model.built
    model.built = True
    try:
        model.load_weights(path)
    finally:
        model.built = built


def _plan(model: keras.Model) -> list[Entry]:
    planned = _Planned()
    with _optimizers_giving_variables(model):
        saving_lib._save_state(model, weights_store=planned, assets_store=None, inner_path="", visited_saveables=set())
    return planned.entries


@contextlib.contextmanager
def _optimizers_giving_variables(model: keras.Model) -> Iterator[None]:
    """Let Keras's optimizers save their variables rather than copies of them."""
    base = keras.optimizers.Optimizer.save_own_variables
    plain = [each for each in optimizers_in(model.optimizer) if type(each).save_own_variables is base]

    def give(optimizer: Any, store: Any) -> None:
        for index, variable in enumerate(optimizer.variables):
            store[str(index)] = variable

    for optimizer in plain:
        # Past Keras's own `__setattr__`, which tracks what is assigned.
        object.__setattr__(optimizer, "save_own_variables", lambda store, own=optimizer: give(own, store))
    try:
        yield
    finally:
        for optimizer in plain:
            object.__delattr__(optimizer, "save_own_variables")


class _Planned(saving_lib.H5IOStore):  # type: ignore[misc]
    """A store that notes what it is given."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._group: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> "_Planned":
        self.entries.append(Entry(path, metadata))
        self._group = {}
        return self

    def close(self) -> None:
        """There is nothing to close."""

    def __len__(self) -> int:
        return len(self._group)

    def keys(self) -> Any:
        return self._group.keys()

    def __contains__(self, key: object) -> bool:
        return key in self._group

    def __getitem__(self, key: str) -> Any:
        return self._group[key]

    def __setitem__(self, key: str, value: Any) -> None:
        # What is no variable may be a view of one's memory.
        kept = value if isinstance(value, keras.Variable) else np.array(keras.ops.convert_to_numpy(value))
        self._group[key] = kept
        self.entries.append(Entry("", None, key, kept))

    def __delitem__(self, key: str) -> None:
        raise NotImplementedError("A layer's save_own_variables deletes what it has stored.")
