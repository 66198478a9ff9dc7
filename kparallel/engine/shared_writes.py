"""Refuses writes to variables that Keras does not track: each part of a batch would write them.

A layer, optimizer or metric may have a plain `tf.Variable` as an attribute that Keras does not track; a loss may have
one too. kparallel makes no copies of such a variable for the replicas. On one device a batch writes it once; here each
replica and microbatch would.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import called_graphs, captured
from kparallel.compat.variables import is_copy, resource_name
from kparallel.errors import ModelError

__all__: list[str] = []

# How the types of operations begin that write a variable, whose handle is their first input.
_WRITING = ("Assign", "ResourceScatter", "ResourceStridedSliceAssign", "ResourceApply", "ResourceSparseApply")

Call = tuple[tf.Operation, str, Any]  # The operation, which of its functions, and that function's graph.


@contextmanager
def refuse_shared_writes(parts: int) -> Iterator[None]:
    """Refuse operations traced inside the context that write a variable that the parts of a batch share.

    A step that runs eagerly is not checked, because it has no graph.

    Args:
        parts: How many times a batch runs these operations. One time is as on one device, and always allowed.

    Raises:
        ModelError: An operation writes such a variable.
    """
    graph = tf.compat.v1.get_default_graph() if parts > 1 and not tf.executing_eagerly() else None
    start = 0 if graph is None else len(graph.get_operations())
    yield
    if graph is not None:
        for handle in _written(graph.get_operations()[start:], ()):
            if not is_copy(handle):  # A replica's own copy of a moved variable may be written.
                raise _refused(handle, parts)


def written_handles(graph: Any) -> list[Any]:
    """Return the handle of each variable that the graph of a function writes, also by functions that it calls."""
    return list(_written(graph.get_operations(), ()))


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
    """Return the handle outside of all functions that a tensor inside them is; None if a function made it itself."""
    while calls:
        # One level up: an input of the function is an argument of its call.
        *outer, (operation, attribute, graph) = calls
        index = next((i for i, each in enumerate(graph.inputs) if each.name == tensor.name), None)
        if index is None:
            return None
        # A conditional's own first input chooses the branch; the branches' inputs follow it.
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
