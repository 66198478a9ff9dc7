"""The arguments of calls of a model's methods."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

__all__: list[str] = []


def named(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call of one of a model's methods; what its `*args` takes it passes on to Keras's.

    ```text
    compile(self, critic, *args, **kwargs)      compile("sgd", "adam", "mse"): critic, optimizer, loss
    ```

    Raises:
        TypeError: There are too many, or one is given by its place and by its name.
    """
    signature = inspect.signature(method)
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    names = _places(signature)
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        of_keras = _places(inspect.signature(getattr(keras.Model, method.__name__)))
        names += [name for name in of_keras if name not in names]
    if len(args) > len(names):
        raise TypeError(f"{method.__qualname__}() takes {len(names)} arguments by their places, received {len(args)}")
    found = dict(zip(names, args, strict=False))
    for name in found.keys() & kwargs.keys():
        raise TypeError(f"{method.__qualname__}() got multiple values for argument {name!r}")
    return found | kwargs


def _places(signature: inspect.Signature) -> list[str]:
    """Return the names of the arguments that may be given by their places, without the model's own."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    # The first one is the model, whatever a class calls it.
    return [parameter.name for parameter in signature.parameters.values() if parameter.kind in kinds][1:]


def takes(method: Callable[..., Any], name: str) -> bool:
    """Tell whether a method takes an argument of some name."""
    parameters = inspect.signature(method).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
