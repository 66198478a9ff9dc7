"""The arguments of calls of a model's methods."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

__all__: list[str] = []


def named(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call of one of a model's methods; one that takes `*args` passes them on to Keras's.

    Raises:
        TypeError: An argument is given by its place and by its name.
    """
    signature = inspect.signature(method)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        signature = inspect.signature(getattr(keras.Model, method.__name__))
    found = dict(signature.bind_partial(None, *args).arguments)
    found.pop("self")
    for name in found.keys() & kwargs.keys():
        raise TypeError(f"{method.__qualname__}() got multiple values for argument {name!r}")
    return found | kwargs


def takes(method: Callable[..., Any], name: str) -> bool:
    """Tell whether a method takes an argument of some name."""
    parameters = inspect.signature(method).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
