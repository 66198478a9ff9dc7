"""Carry over to a rebuilt model what its config leaves out: classes, built layers, names, seeds, attributes."""

import copy
from inspect import isfunction
from typing import Any

import keras
import numpy as np

from kparallel.errors import ModelError
from kparallel.private import KERAS_ATTRIBUTES, child_layers, flatten_layers, read_variable, rename, seed_generators

__all__: list[str] = []

_PLAIN = (str, bytes, int, float, complex, bool, type(None), np.ndarray, np.generic)


def own_objects(model: keras.Model) -> dict[str, Any]:
    """Return the user's classes and functions that a model's config names, which need not be registered here.

    Raises:
        ModelError: Two of them have the same name.
    """
    found: dict[str, Any] = {}
    for layer in flatten_layers(model):
        values = [value for key, value in vars(layer).items() if key not in KERAS_ATTRIBUTES]
        for value in [layer, *values]:
            if isfunction(value):
                thing: Any = value
            elif hasattr(value, "get_config"):
                thing = value.__class__
            else:
                continue
            if thing.__module__.split(".")[0] == "keras" or thing.__name__ == "<lambda>":
                continue
            name = keras.saving.get_registered_name(thing)
            if found.setdefault(name, thing) is not thing:
                raise ModelError(
                    f"Expected custom classes and functions of different names, received two named {name!r} in model "
                    f"{model.name!r}. Rename one."
                )
    return found


def build_like(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Build every layer of a twin that is built in its source, from the shapes that the source was built with."""
    if source.built and not target.built:
        config = source.get_build_config()
        if config:
            target.build_from_config(config)
    for old, new in zip(child_layers(source), child_layers(target), strict=False):
        build_like(old, new)
    # A subclass without a `build` of its own is built by its first call; its layers are built now.
    target.built = target.built or source.built


def copy_names(source: keras.Model, target: keras.Model) -> None:
    """Give a twin's layers and variables the names of their originals: a constructor makes up new ones."""
    for old, new in zip(flatten_layers(source), flatten_layers(target), strict=source.built):
        rename(old, new)
    for old, new in zip(source.variables, target.variables, strict=source.built):
        rename(old, new)


def copy_functions(source: keras.Model, target: keras.Model) -> None:
    """Give a twin's layers the very functions of their originals: a name alone may mean one of Keras's own."""
    for old, new in zip(flatten_layers(source), flatten_layers(target), strict=False):
        for key, value in vars(old).items():
            twin = vars(new).get(key)
            if isfunction(value) and isfunction(twin) and twin is not value and key not in KERAS_ATTRIBUTES:
                setattr(new, key, value)


def copy_seeds(source: keras.Model, target: keras.Model) -> None:
    """Let a twin that is not built yet draw what its original would draw: initial weights and masks."""
    for old, new in zip(flatten_layers(source), flatten_layers(target), strict=False):
        for first, second in zip(seed_generators(old), seed_generators(new), strict=False):
            second.state.assign(read_variable(first.state))
        for key, value in vars(old).items():
            twin = vars(new).get(key)
            if isinstance(value, keras.initializers.Initializer) and type(twin) is type(value):
                seed = getattr(value, "seed", None)
                if isinstance(seed, int):
                    twin.seed = seed


def copy_attributes(source: keras.Model, target: keras.Model) -> None:
    """Copy the public attributes that a user set on a model, where they hold plain data or the twin has none.

    Layers, variables and what else Keras tracks are the constructor's affair.
    """
    for old, new in zip(flatten_layers(source), flatten_layers(target), strict=False):
        if not isinstance(old, keras.Model) or old.__class__ is not new.__class__:
            continue
        for key, value in vars(old).items():
            if key.startswith("_") or key in KERAS_ATTRIBUTES or _is_keras(value):
                continue
            if _is_plain(value):
                setattr(new, key, copy.deepcopy(_untracked(value)))
            elif key not in vars(new):
                setattr(new, key, value)


def _is_keras(value: Any) -> bool:
    kinds = (keras.layers.Layer, keras.Variable, keras.metrics.Metric, keras.optimizers.Optimizer)
    leaves = keras.tree.flatten(value)
    return any(isinstance(leaf, (*kinds, keras.random.SeedGenerator, keras.KerasTensor)) for leaf in leaves)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _untracked(value: Any) -> Any:
    """Return a Keras-tracked container as the plain container it is."""
    for kind in (dict, list, set):
        if isinstance(value, kind) and type(value) is not kind and type(value).__module__.startswith("keras."):
            return kind(value)
    return value
