"""Finds the code of the user's own that a model runs on rows: layers, operations, functions and losses."""

from typing import Any

import keras

from kparallel.compat.layers import flatten_layers
from kparallel.compat.losses import compiled_loss, flat_losses, wrapped_function
from kparallel.loss.overridden import overrides_compute_loss
from kparallel.loss.term import is_rowwise
from kparallel.stage.graph import open_graph

__all__: list[str] = []

# These attributes of a layer are called with weights or shapes, or are layers, which are asked themselves.
_CALLED_WITHOUT_ROWS = (
    keras.initializers.Initializer,
    keras.constraints.Constraint,
    keras.Variable,
    keras.layers.Layer,
    type,
)
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
        # A subclass of a layer may replace what the inherited `call` calls. A model's class has no such parts.
        is_model = isinstance(layer, keras.Model)
        if not _is_kerass(layer.__class__.call if is_model else layer.__class__):
            found.append(layer.__class__.__name__)
        # A model's own attributes are its loss and the like, and no activations.
        elif not is_model and (_calls_given_code(layer) or _works_along_rows(layer)):
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


def _is_kerass(code: Any) -> bool:
    return str(getattr(code, "__module__", "")).startswith(("keras.", "kparallel."))


def _calls_given_code(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer of Keras's calls code of the user's on rows: an activation, an activity regularizer."""
    for name, value in vars(layer).items():
        of_weights = isinstance(value, keras.Regularizer) and name != "activity_regularizer"
        # Functions, bound methods, partials and objects of a class of the user's have a module that is not Keras's.
        if callable(value) and not (of_weights or isinstance(value, _CALLED_WITHOUT_ROWS) or _is_kerass(value)):
            return True
    return False


def _works_along_rows(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer of Keras's may work along the rows: its axis is 0, or counted back from the last."""
    axes = [getattr(layer, name, None) for name in ("axis", "axes")]
    return any(isinstance(axis, int) and (axis == 0 or axis < -1) for axis in keras.tree.flatten(axes))


def _name(loss: Any) -> str:
    return getattr(wrapped_function(loss), "__name__", type(loss).__name__)
