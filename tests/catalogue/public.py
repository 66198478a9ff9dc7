"""Finds the public classes of a part of Keras, so that a release's additions are tested without a line here."""

import importlib.util
import inspect
from types import ModuleType

import keras

# What these wrap is written for another backend, so they need its package.
OTHER_BACKENDS = {"FlaxLayer": "flax", "JaxLayer": "jax", "TorchModuleWrapper": "torch"}
# Of these methods a concrete class defines one: a class that has only its base's is abstract.
OWN_METHODS = {
    keras.layers.Layer: ("call",),
    keras.optimizers.Optimizer: ("update_step", "apply"),
    keras.losses.Loss: ("call",),
    keras.metrics.Metric: ("update_state",),
}


def public(package: ModuleType, base: type) -> list[str]:
    """Return the names of a package's concrete classes in alphabetical order, each class once.

    Args:
        package: Such as `keras.layers`.
        base: Such as `keras.layers.Layer`.
    """
    names: dict[type, str] = {}
    for name, kind in inspect.getmembers(package, inspect.isclass):
        if issubclass(kind, base) and concrete(kind, base) and available(name):
            # Of aliases, such as `Conv1D` and `Convolution1D`, the class's own name is taken.
            names[kind] = kind.__name__ if hasattr(package, kind.__name__) else name
    return sorted(names.values())


def concrete(kind: type, base: type) -> bool:
    """Whether a class defines what its base leaves open."""
    return any(getattr(kind, method, None) is not getattr(base, method, None) for method in OWN_METHODS[base])


def available(name: str) -> bool:
    """Whether the package that a class is an adapter for is installed."""
    return name not in OTHER_BACKENDS or importlib.util.find_spec(OTHER_BACKENDS[name]) is not None
