"""Where the indices of slices come from: the graph behind them, walked backwards through calls of functions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import called_graphs

__all__: list[str] = []

# Their outputs tell of their inputs' shapes only.
_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
# They hand on each element of their first input, in order.
_HANDING_ON = {"Identity", "Snapshot", "StopGradient", "PreventGradient", "EnsureShape"}
_HANDING_ON |= {"Reshape", "ExpandDims", "Squeeze"}
_DISTINCT = {"Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "Range"}
# Stateful, but taken to give the same outputs for the same inputs throughout a step; all others draw at random.
_READING = ("ReadVariableOp", "VarHandleOp", "LookupTable", "HashTable", "PyFunc", "EagerPyFunc")


@dataclass(frozen=True)
class Source:
    """One gather's indices.

    Args:
        count: How many there are, where that is known when the step is traced.
        size: The same as a tensor of the present graph, where it can be had.
        varies: Whether their values come from the data, or from anything else in which parts of a batch differ.
        distinct: Whether no index occurs twice, whatever the data.
        merged: Whether they are computed from such distinct values.
    """

    count: int | None
    size: tf.Tensor | None
    varies: bool
    distinct: bool
    merged: bool


@dataclass(frozen=True)
class _Call:
    """One call of a function: what is inside it, and what it was called with."""

    operation: tf.Operation
    attribute: str
    graph: Any

    @property
    def key(self) -> tuple[str, str]:
        return self.operation.name, self.attribute


@dataclass(frozen=True)
class _Place:
    """A tensor, and the calls that it stands in, the outermost first."""

    tensor: tf.Tensor
    calls: tuple[_Call, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        return self.tensor.name, tuple(call.key for call in self.calls)


def sources(indices: tf.Tensor, varying: set[str]) -> list[Source]:
    """Return the sources of the indices of a gradient's slices, in the order of the slices.

    Args:
        indices: The indices, in a graph.
        varying: Names of the tensors of this graph in which parts of a batch differ: the data, and seeds.
    """
    return [_source(place, varying) for place in _segments(_Place(indices))]


def _segments(place: _Place) -> Iterator[_Place]:
    """Yield what was concatenated to these indices."""
    made = _made(place)
    operation = made.tensor.op
    if operation.type == "ConcatV2" and _along_first_dim(operation):
        for part in operation.inputs[:-1]:
            yield from _segments(_Place(part, made.calls))
    else:
        yield place


def _along_first_dim(concat: tf.Operation) -> bool:
    axis, rank = tf.get_static_value(concat.inputs[-1]), concat.outputs[0].shape.rank
    return axis is not None and (axis == 0 or axis + (rank or 0) == 0)


def _source(place: _Place, varying: set[str]) -> Source:
    made = _made(place)
    counts = [each.tensor.shape.num_elements() for each in (place, made) if each.tensor.shape.rank is not None]
    return Source(
        count=next((count for count in counts if count is not None), None),
        size=None if place.calls else tf.size(place.tensor),
        varies=any(_differs(each, varying) for each in _behind(place, lambda each: _differs(each, varying))),
        distinct=made.tensor.op.type in _DISTINCT,
        # A mask only chooses among other values.
        merged=any(each.tensor.op.type in _DISTINCT for each in _behind(place, lambda each: each.tensor.dtype.is_bool)),
    )


def _made(place: _Place) -> _Place:
    """Return where the elements of a tensor were made."""
    while True:
        before = _handed_on(place)
        if before is None:
            return place
        place = before


def _handed_on(place: _Place) -> _Place | None:
    """Return the tensor that has the same elements in the same order one operation earlier, if there is one."""
    operation = place.tensor.op
    if operation.type == "Placeholder":
        in_loop = place.calls and place.calls[-1].attribute in ("body", "cond")
        before = [] if in_loop else _before(place)
        return before[0] if before else None
    if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
        return _before(place)[0]
    if operation.type == "IdentityN":
        return _before(place)[int(place.tensor.value_index)]
    if _counts_from_end(operation):
        return _before(place)[2]
    # A cast of fractions may make two indices of one number.
    exact = operation.type == "Cast" and operation.inputs[0].dtype.is_integer
    return _before(place)[0] if exact or operation.type in _HANDING_ON else None


def _counts_from_end(operation: tf.Operation) -> bool:
    """Tell whether this is `where(i < 0, i + n, i)`, as every lookup of Keras has."""
    if operation.type != "SelectV2":
        return False
    negative, shifted, indices = operation.inputs
    return (
        (negative.op.type, shifted.op.type) == ("Less", "AddV2")
        and negative.op.inputs[0].name == shifted.op.inputs[0].name == indices.name
        and tf.get_static_value(negative.op.inputs[1]) == 0
    )


def _behind(place: _Place, ends: Callable[[_Place], bool]) -> Iterator[_Place]:
    """Yield a tensor and all that its values depend on, up to where that ends."""
    seen, waiting = {place.key}, [place]
    while waiting:
        here = waiting.pop()
        yield here
        for before in [] if ends(here) else _before(here):
            if before.key not in seen:
                seen.add(before.key)
                waiting.append(before)


def _differs(place: _Place, varying: set[str]) -> bool:
    """Tell whether parts of a batch may differ in a tensor by itself: given so, or drawn by a stateful operation."""
    operation = place.tensor.op
    if not place.calls and place.tensor.name in varying:
        return True
    draws = bool(operation.op_def.is_stateful) and not called_graphs(operation)
    return draws and not operation.type.startswith(_READING)


def _before(place: _Place) -> list[_Place]:
    """Return the tensors on which a tensor's values depend, inside the functions called or outside of them."""
    tensor, operation = place.tensor, place.tensor.op
    if operation.type in _OF_SHAPES:
        return []
    if operation.type == "Placeholder" and place.calls:
        return _outside(place)
    calls = [_Call(operation, attribute, graph) for attribute, graph in called_graphs(operation).items()]
    if not calls:
        return [_Place(each, place.calls) for each in operation.inputs]
    inside = []
    for call in calls:
        index = 0 if call.attribute == "cond" else tensor.value_index
        inside.append(_Place(call.graph.outputs[index], (*place.calls, call)))
    chosen = operation.inputs[:1] if len(calls) > 1 and "then_branch" in calls[0].attribute else []
    return inside + [_Place(each, place.calls) for each in chosen]


def _outside(place: _Place) -> list[_Place]:
    """Return what the input of a function stands for: the argument of its call, in a loop also what it becomes."""
    *outer, call = place.calls
    index = next((i for i, each in enumerate(call.graph.inputs) if each.name == place.tensor.name), None)
    if index is None:
        return []
    argument = call.operation.inputs[index + (call.attribute.endswith("_branch"))]
    found = [_Place(argument, tuple(outer))]
    if call.attribute in ("body", "cond"):
        body = _Call(call.operation, "body", called_graphs(call.operation)["body"])
        found.append(_Place(body.graph.outputs[index], (*outer, body)))
    return found
