"""What a trace of an optimizer's update finds in Python: numbers, flags and objects that are no variables."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.compat.optimizers import python_attributes

__all__: list[str] = []

_VALUES = (bool, int, float, complex, str, bytes, tf.DType, np.generic, type(None))
_MODULES = (keras.optimizers, keras.optimizers.schedules, keras.constraints)


class PythonState:
    """The attributes of some objects at this moment, to be compared with those of another moment.

    Optimizers, Keras's own objects and containers are looked into. All else, variables too, is compared by identity.

    Args:
        objects: Optimizers and constraints.
    """

    def __init__(self, objects: Iterable[Any]) -> None:
        self._kept: list[Any] = []  # An object that is compared by identity must not make way for another one.
        self._open: set[int] = set()
        self.is_keras_own = True  # Whether no code but Keras's own reads these attributes.
        self._key = tuple(self._of(each) for each in objects)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PythonState) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def _of(self, value: Any) -> Any:
        if isinstance(value, _VALUES):
            return type(value), value
        if isinstance(value, np.ndarray):
            return value.shape, value.dtype.str, value.tobytes()
        self._kept.append(value)
        if isinstance(value, list | tuple):
            return tuple(map(self._of, value))
        if isinstance(value, dict):
            return tuple((self._of(name), self._of(part)) for name, part in value.items())
        own, optimizer = _is_keras_own(value), isinstance(value, keras.optimizers.Optimizer)
        self.is_keras_own &= own or not (optimizer or callable(value))
        # An object that is being looked into, as one that refers to itself, is compared by identity.
        if not (own or optimizer) or id(value) in self._open:
            return id(value)
        self._open.add(id(value))
        return id(value), self._of(python_attributes(value))


def _is_keras_own(value: Any) -> bool:
    return any(getattr(module, type(value).__name__, None) is type(value) for module in _MODULES)
