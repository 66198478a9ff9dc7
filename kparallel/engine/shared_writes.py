"""Refuses what would be written once for each part of a batch: a variable of which nothing of the model knows.

Layers, optimizers and metrics keep such variables as attributes that Keras does not track, and losses may have any. On
one device a batch writes them once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import called_graphs, captured
from kparallel.compat.variables import is_copy, resource_name
from kparallel.errors import ModelError

__all__: list[str] = []

_WRITING = ("Assign", "ResourceScatter", "ResourceStridedSliceAssign", "ResourceApply", "ResourceSparseApply")

Call = tuple[tf.Operation, str, Any]  # The operation, which of its functions, and that function's graph.


@contextmanager
def refuse_shared_writes(parts: int) -> Iterator[None]:
    """Make sure that what is traced inside writes no variable that the parts of a batch share.

    In a step that runs eagerly there is no graph to look at.

    Args:
        parts: How many times a batch runs it; once is as on one device.

    Raises:
        ModelError: It writes one.
    """
    graph = tf.compat.v1.get_default_graph() if parts > 1 and not tf.executing_eagerly() else None
    start = 0 if graph is None else len(graph.get_operations())
    yield
    if graph is not None:
        for handle in _written(graph.get_operations()[start:], ()):
            if not is_copy(handle):
                raise _refused(handle, parts)


def _written(operations: list[tf.Operation], calls: tuple[Call, ...]) -> Iterator[Any]:
    """Yield the handle of each variable that operations, or the functions that they call, write."""
    for operation in operations:
        if operation.type.startswith(_WRITING):
            handle = _outside(operation.inputs[0], calls)
            if handle is not None:
                yield handle
        for attribute, inner in called_graphs(operation).items():
            yield from _written(inner.get_operations(), (*calls, (operation, attribute, inner)))


def _outside(tensor: Any, calls: tuple[Call, ...]) -> Any:
    """Return the handle that a tensor in functions stands for; None if they have made it themselves."""
    while calls:
        *outer, (operation, attribute, graph) = calls
        index = next((i for i, each in enumerate(graph.inputs) if each.name == tensor.name), None)
        if index is None:
            return None
        tensor, calls = operation.inputs[index + attribute.endswith("_branch")], tuple(outer)
    return captured(tensor)


def _refused(handle: Any, parts: int) -> ModelError:
    return ModelError(
        f"Expected a step to write variables of the model, its optimizer and its metrics alone, but it writes "
        f"{resource_name(handle)!r}, "
        f"which none of them knows: the {parts} parts of a batch would each write it. Make it with add_weight in a "
        "layer or model, with add_variable in an optimizer or metric; a loss that changes variables becomes the "
        "model's compute_loss."
    )
