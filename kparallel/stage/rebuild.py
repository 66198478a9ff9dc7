"""Rebuild a model in the present scope and carry its state over."""

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kparallel.errors import ModelError
from kparallel.private import flatten_layers, read_variable, trust_own_code
from kparallel.stage.twin import build_like, copy_attributes, copy_functions, copy_names, copy_seeds, own_objects

__all__: list[str] = []

_WAY_OUT = "Pass a zero-argument function that builds it instead: kparallel.wrap(build_model)."


def rebuild(model: keras.Model, plain: type[keras.Model]) -> keras.Model:
    """Make a model of the same architecture, with the same weights and state, in the present scope.

    Args:
        model: The model to rebuild; left as it is.
        plain: Its class.

    Returns:
        The new model; unbuilt if the given one is.

    Raises:
        ModelError: Its config does not describe it.
    """
    objects = own_objects(model)
    try:
        with trust_own_code(), keras.saving.custom_object_scope(objects), _drawing_no_seeds():
            fresh = plain.from_config(model.get_config())
            build_like(model, fresh)
    except Exception as error:
        raise ModelError(f"Model {model.name!r} ({plain.__name__}) cannot be rebuilt: {error}. {_WAY_OUT}") from error
    copy_functions(model, fresh)
    copy_attributes(model, fresh)
    if model.built:
        transfer(model, fresh)
    else:
        copy_names(model, fresh)
        copy_seeds(model, fresh)
    return fresh


@contextmanager
def _drawing_no_seeds() -> Iterator[None]:
    """Leave Python's random numbers where they were.

    New layers draw their seeds from them, and what a user makes after `wrap` must get the seeds that it would get
    without.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def build_with(builder: Callable[[], Any]) -> keras.Model:
    """Call a user's builder in the present scope.

    Raises:
        ModelError: It returned no Keras model.
    """
    model = builder()
    if not isinstance(model, keras.Model):
        raise ModelError(f"Expected a builder that returns a keras.Model, received {type(model).__name__}.")
    return model


def transfer(source: keras.Model, target: keras.Model) -> None:
    """Copy every variable, seed state, asset and `trainable` flag from one model to its twin.

    Raises:
        ModelError: The twins differ.
    """
    if not target.built:
        raise ModelError(f"Model {source.name!r} is built but its rebuilt twin is not. {_WAY_OUT}")
    old_shapes = [tuple(v.shape) for v in source.variables]
    new_shapes = [tuple(v.shape) for v in target.variables]
    kinds = [[type(layer) for layer in flatten_layers(model)][1:] for model in (source, target)]
    if old_shapes != new_shapes or kinds[0] != kinds[1]:
        raise ModelError(
            f"Model {source.name!r} cannot be rebuilt from its config: expected {len(old_shapes)} variables of shapes "
            f"{old_shapes[:8]}, received {len(new_shapes)} of {new_shapes[:8]}. {_WAY_OUT}"
        )
    copy_names(source, target)
    for old, new in zip(flatten_layers(source), flatten_layers(target), strict=True):
        if new.trainable != old.trainable:
            new.trainable = old.trainable
        if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(read_variable(old))
    for layer in flatten_layers(target):
        if layer.built and hasattr(layer, "finalize_state"):
            layer.finalize_state()
