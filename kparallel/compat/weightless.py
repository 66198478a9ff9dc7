"""Builds a model whose weights have shapes and dtypes, and no memory until they are initialized, one after another."""

import collections
import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state

__all__: list[str] = []

_WAITING = "uninitialized_variables"  # Where Keras keeps the variables that it initializes when the scope ends.
_NAMES = "object_name_uids"  # How many layers of each kind Keras has named.


def build_weightless(build: Callable[[], Any]) -> Any:
    """Return what a function builds in a scope in which Keras initializes no variable.

    A model of 23 billion parameters takes a second and some megabytes. It can be looked at, and not called.

    Args:
        build: Builds a Keras model.
    """
    with _not_initialized(), keras.StatelessScope(initialize_variables=False):
        return build()


@contextlib.contextmanager
def _not_initialized() -> Iterator[list[keras.Variable]]:
    """Give a list that takes the variables made within; else the next scope that ends would initialize them."""
    # The variables of a scope around this one, which it will initialize.
    before = list(global_state.get_global_attribute(_WAITING, []))
    made: list[keras.Variable] = []
    global_state.set_global_attribute(_WAITING, made)
    try:
        yield made
    finally:
        global_state.set_global_attribute(_WAITING, before)


class _Scope(keras.StatelessScope):  # type: ignore[misc]
    """A scope that notes what is assigned in it."""

    def __init__(self) -> None:
        super().__init__(initialize_variables=False)
        self.assigned: dict[int, tuple[keras.Variable, Any]] = {}

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        super().add_update(update)
        self.assigned[id(update[0])] = update


class Pending:
    """The variables that a build has made and not initialized, and what it has assigned; none are left as it exits.

    Args:
        variables: In the order in which they were made.
        assigned: By the id of a variable, the variable and its value.
    """

    def __init__(self, variables: list[keras.Variable], assigned: dict[int, tuple[keras.Variable, Any]]) -> None:
        self.variables = variables
        self._assigned = assigned

    def initialize(self, variable: keras.Variable) -> None:
        """Give one of the variables the value that the build would have given it."""
        value = self._assigned.pop(id(variable), (variable, None))[1]
        variable._initializer = variable._initializer if value is None else lambda shape, dtype=None: value
        variable._deferred_initialize()

    def __enter__(self) -> "Pending":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()  # Also after an error: layers from before may be among them.

    def finish(self) -> None:
        """Initialize what is left, and assign what the build has assigned to variables from before."""
        for variable in self.variables:
            if variable._value is None:
                self.initialize(variable)
        for variable, value in self._assigned.values():
            variable.assign(value)
        self._assigned.clear()


def build_pending(build: Callable[[], Any]) -> tuple[Any, Pending]:
    """Return what a function builds, its variables still to be initialized.

    A function that cannot be called in such a scope, as one that makes a variable of an array, is called again as it
    is: then nothing is pending.

    Args:
        build: Builds a Keras model.
    """
    names = copy.copy(global_state.get_global_attribute(_NAMES, collections.defaultdict(int)))
    draws = random.getstate(), np.random.get_state()
    scope = _Scope()
    with _not_initialized() as variables:
        try:
            with scope:
                made = build()
        except Exception:
            made = None
    if made is not None:
        return made, Pending(variables, scope.assigned)
    Pending(variables, {}).finish()  # Of layers from before, which the function uses.
    global_state.set_global_attribute(_NAMES, names)
    random.setstate(draws[0])
    np.random.set_state(draws[1])
    return build(), Pending([], {})
