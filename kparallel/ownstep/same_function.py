"""Tells functions apart that have the same code, as those that one function of the user's makes for each optimizer."""

import types
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__: list[str] = []

# What may be another object for each batch.
_DATA = (np.ndarray, np.generic, tf.Tensor, tf.RaggedTensor, tf.SparseTensor, tf.distribute.DistributedValues)


def key_of(function: Callable[..., Any]) -> tuple[Hashable, list[Any]]:
    """Return what is the same for functions that do the same.

    A function that is defined inside a loop is a new object each time. It is the same if it has the same code, and
    closes over the same objects and numbers, and over data of the same kinds.

    Args:
        function: The function.

    Returns:
        The key, and the objects whose ids are in it: it holds as long as these are kept.
    """
    kept: list[Any] = []
    return _key(function, kept, ()), kept


def _key(value: Any, kept: list[Any], above: tuple[int, ...]) -> Hashable:
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
    if id(value) in above:  # A function that calls itself.
        return "above"
    within = (*above, id(value))
    if isinstance(value, list | tuple):
        return (type(value), *(_key(each, kept, within) for each in value))
    if isinstance(value, dict):
        return (type(value), *((str(name), _key(each, kept, within)) for name, each in value.items()))
    if isinstance(value, partial):
        return tuple(_key(each, kept, within) for each in (value.func, value.args, value.keywords))
    if isinstance(value, types.MethodType):
        kept.append(value.__self__)
        return id(value.__self__), _key(value.__func__, kept, within)
    if isinstance(value, types.FunctionType):
        closed = [_content(cell) for cell in value.__closure__ or ()]
        parts = [*closed, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return (value.__code__, *(_key(part, kept, within) for part in parts))
    if isinstance(value, _DATA) and not isinstance(value, tf.Variable | keras.Variable):
        return (type(value),)
    kept.append(value)
    return id(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Of a name that has no value yet.
        return None
