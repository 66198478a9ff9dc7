"""Builds what a wrapped model has not built yet, and places it on the plan's devices."""

from typing import Any

import keras

from kparallel.compat.copies import as_ordinary
from kparallel.compat.training import build_layers, build_symbolically
from kparallel.model.runtime import Runtime
from kparallel.model.takeover import take_over
from kparallel.model_variables import variables_of

__all__: list[str] = []


def place_new(model: keras.Model, runtime: Runtime) -> None:
    """Place what was made since: weights of a layer built later, an optimizer's slots, metrics.

    Args:
        model: The wrapped model.
        runtime: Its own.
    """
    if take_over(model, runtime):
        runtime.moves += 1
        runtime.redirect_calls(model)


def build_missing(model: keras.Model, runtime: Runtime, data_batch: Any, inputs_only: bool = False) -> None:
    """Build what is not built yet (layers, losses, metrics, the optimizer) from one batch's shapes, and place it.

    Args:
        model: The wrapped model.
        runtime: Its own.
        data_batch: Tensors or specs.
        inputs_only: Whether to build layers alone: neither loss nor optimizer can be built without targets.
    """
    # Keras traces what it builds. Behind a loop of one's own other workers may hold some weights.
    with as_ordinary(variables_of(model), traces_alone=True):
        if inputs_only:
            build_layers(model, data_batch)
        else:
            build_symbolically(model, data_batch)
    place_new(model, runtime)
