"""Finds the code of the user's own that a model runs on rows: layers, operations, functions and losses."""

from types import FunctionType
from typing import Any

import keras

from kparallel.compat.layers import flatten_layers
from kparallel.compat.losses import compiled_loss, flat_losses, wrapped_function
from kparallel.loss.overridden import overrides_compute_loss
from kparallel.loss.term import is_rowwise
from kparallel.stage.graph import open_graph

__all__: list[str] = []


_MASKING = ("NotEqual",)  # What Embedding and Masking make of their inputs, for the layers after them.


def own_code(model: keras.Model, with_losses: bool = True) -> list[str]:
    """Return the names of what a built model runs on rows that is no layer or loss of Keras's own.

    Keras's layers treat each row by itself, or are named in the documents. All else may compare rows with one another,
    or insist on their number. Metrics of the user's own are not named: they are updated with the whole batch.

    Args:
        model: Compiled, where losses are asked for.
        with_losses: Whether losses run too. Default True.
    """
    found: list[str] = []
    for layer in flatten_layers(model):
        # A model's own attributes are its loss and the like, and no activations.
        attributes = [] if isinstance(layer, keras.Model) else vars(layer).values()
        # Such as an activation that was passed to a layer of Keras's.
        functions = [value for value in attributes if isinstance(value, FunctionType)]
        if not _is_kerass(layer.__class__.call):
            found.append(layer.__class__.__name__)
        elif not all(map(_is_kerass, functions)):
            found.append(layer.name)
    graph = open_graph(model)
    calls = [] if graph is None else graph.calls
    # Operations of keras.ops may reduce, reshape or multiply over any axis.
    operations = [call for call in calls if not isinstance(call.operation, keras.layers.Layer)]
    found += [call.name for call in operations if type(call.operation).__name__ not in _MASKING]
    if not with_losses:
        return list(dict.fromkeys(found))
    losses = compiled_loss(model)
    found += [_name(loss) for loss in ([] if losses is None else flat_losses(losses)) if not is_rowwise(loss)]
    if overrides_compute_loss(model):
        found.append("compute_loss")
    return list(dict.fromkeys(found))


def listed(code: list[str]) -> str:
    """Return the first of some names, for a message."""
    return ", ".join(code[:4]) + (", ..." if len(code) > 4 else "")


def _is_kerass(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith(("keras.", "kparallel."))


def _name(loss: Any) -> str:
    return getattr(wrapped_function(loss), "__name__", type(loss).__name__)
