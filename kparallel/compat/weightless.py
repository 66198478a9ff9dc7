"""Builds a model whose weights have shapes and dtypes, and no memory."""

from collections.abc import Callable
from typing import Any

import keras
from keras.src.backend.common import global_state

__all__: list[str] = []

_WAITING = "uninitialized_variables"  # Where Keras keeps the variables that it initializes when the scope ends.


def build_weightless(build: Callable[[], Any]) -> Any:
    """Return what a function builds in a scope in which Keras initializes no variable.

    A model of 23 billion parameters takes a second and some megabytes. It can be looked at, and not called.

    Args:
        build: Builds a Keras model.
    """
    # The variables of a scope around this one, which it will initialize.
    before = list(global_state.get_global_attribute(_WAITING, []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            return build()
    finally:  # Else the next scope that ends would initialize them.
        global_state.set_global_attribute(_WAITING, before)
