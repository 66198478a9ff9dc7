"""The graph of a functional Keras model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional

__all__: list[str] = []


def inner_functional(model: Any) -> Any:
    """Return the functional graph that a model's own `call` runs, or None where `call` is something else."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    return model if isinstance(model, Functional) and type(model).call is Functional.call else None


def functional_nodes(functional: Any) -> Iterator[Any]:
    """Yield a functional graph's nodes in the order in which Keras runs them, inputs left out."""
    # Depth counts from the outputs, so the deepest nodes come first.
    for _, nodes in sorted(functional._nodes_by_depth.items(), reverse=True):
        yield from (node for node in nodes if node.operation is not None and not node.is_input)


def call_operation(operation: Any, arguments: Any, values: dict[int, Any], training: bool) -> list[Any]:
    """Call one node's layer or operation and return its flat outputs."""
    args, kwargs = arguments.fill_in(values)
    # Until 3.15 Keras gives each layer of a functional model the argument `training`, past what the graph says; from
    # 3.16 on a layer finds it in the context of the model's call.
    if isinstance(operation, keras.layers.Layer) and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16):
        kwargs = {**kwargs, "training": training}
    return list(keras.tree.flatten(operation(*args, **kwargs)))


@contextmanager
def one_model_call(training: bool) -> Iterator[None]:
    """Let Keras see the layers called inside as parts of one model's call.

    Otherwise each would count as a call of its own, and a layer's second call would drop the losses of its first.

    Args:
        training: The model's argument, which its layers take over.
    """
    before = global_state.get_global_attribute("current_call_ctx")
    context = CallContext(entry_layer=None)
    context.set_value("training", training)
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", before)
