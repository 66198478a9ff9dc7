"""Finds where the indices of `tf.IndexedSlices` come from: walks the graph backwards, into the functions it calls.

```text
outer graph     tokens ─► Call(f) ───────────────────────► concat ─► indices        gradients of two gathers
                            │  ▲                             ▲
graph of f      argument ◄──┘  └─ output ◄─ ... ◄─ argument  └── range(n)
```

A `_Place` is a tensor together with the calls around it: the same tensor inside a function has different values in
different calls. `_predecessors` makes one step of the walk. It enters a function at its outputs, and leaves it at its
inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import called_graphs

__all__: list[str] = []

# Operations whose outputs depend on the shapes of their inputs, not on the values.
_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
# Operations whose output has the elements of their first input, in order.
_PASSING_ON = {"Identity", "Snapshot", "StopGradient", "PreventGradient", "EnsureShape"}
_PASSING_ON |= {"Reshape", "ExpandDims", "Squeeze"}
# Operations whose output has no value twice.
_DISTINCT = {"Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "Range"}
# Stateful operations that give the same outputs for the same inputs throughout a step. All others are taken to draw at
# random.
_READING = ("ReadVariableOp", "VarHandleOp", "LookupTable", "HashTable", "PyFunc", "EagerPyFunc")


@dataclass(frozen=True)
class Source:
    """The indices of one gather.

    Args:
        count: Their number, or None where it is unknown when the step is traced.
        size: Their number as a tensor of the traced graph, or None where they are inside a function.
        varies: Whether their values come from the data, or from anything else in which parts of a batch differ.
        distinct: Whether no index occurs twice, whatever the data are.
        merged: Whether they are computed from values among which none occurs twice.
    """

    count: int | None
    size: tf.Tensor | None
    varies: bool
    distinct: bool
    merged: bool


@dataclass(frozen=True)
class _Call:
    """One call of a function.

    Args:
        operation: The calling operation; its inputs are the arguments.
        attribute: The attribute that names the function: `"body"`, `"cond"`, `"then_branch"` and so on.
        graph: The function's graph.
    """

    operation: tf.Operation
    attribute: str
    graph: Any

    @property
    def key(self) -> tuple[str, str]:
        return self.operation.name, self.attribute


@dataclass(frozen=True)
class _Place:
    """A tensor and the calls around it, the outermost first."""

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
    """Yield the indices of each gather: TensorFlow concatenates the slices of several gathers of one weight."""
    origin = _origin(place)
    operation = origin.tensor.op
    if operation.type == "ConcatV2" and _along_first_dim(operation):
        for part in operation.inputs[:-1]:  # The last input is the axis.
            yield from _segments(_Place(part, origin.calls))
    else:
        yield place


def _along_first_dim(concat: tf.Operation) -> bool:
    axis, rank = tf.get_static_value(concat.inputs[-1]), concat.outputs[0].shape.rank
    return axis is not None and (axis == 0 or axis + (rank or 0) == 0)


def _source(place: _Place, varying: set[str]) -> Source:
    origin = _origin(place)
    counts = [each.tensor.shape.num_elements() for each in (place, origin) if each.tensor.shape.rank is not None]
    return Source(
        count=next((count for count in counts if count is not None), None),
        size=None if place.calls else tf.size(place.tensor),
        varies=any(_differs(each, varying) for each in _ancestors(place, lambda each: _differs(each, varying))),
        distinct=origin.tensor.op.type in _DISTINCT,
        merged=any(each.tensor.op.type in _DISTINCT for each in _ancestors(place, _is_mask)),
    )


def _is_mask(place: _Place) -> bool:
    """Return whether a tensor is boolean, at which a walk ends: a mask only chooses among other values."""
    return bool(place.tensor.dtype.is_bool)


def _origin(place: _Place) -> _Place:
    """Follow a tensor back through operations that only pass on its elements, and return where these were computed."""
    while True:
        earlier = _passed_on(place)
        if earlier is None:
            return place
        place = earlier


def _passed_on(place: _Place) -> _Place | None:
    """Return the tensor with the same elements in the same order one operation earlier, or None."""
    operation = place.tensor.op
    if operation.type == "Placeholder":
        # A loop's variable is more than its initial value: the body replaces it.
        in_loop = place.calls and place.calls[-1].attribute in ("body", "cond")
        earlier = [] if in_loop else _predecessors(place)
        return earlier[0] if earlier else None
    if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
        return _predecessors(place)[0]
    if operation.type == "IdentityN":
        return _predecessors(place)[int(place.tensor.value_index)]
    if _counts_from_end(operation):
        return _predecessors(place)[2]
    # A cast of floats cuts off: two distinct numbers may become one index.
    exact = operation.type == "Cast" and operation.inputs[0].dtype.is_integer
    return _predecessors(place)[0] if exact or operation.type in _PASSING_ON else None


def _counts_from_end(operation: tf.Operation) -> bool:
    """Return whether an operation is `where(i < 0, i + n, i)`, which is part of every lookup of Keras."""
    if operation.type != "SelectV2":
        return False
    negative, shifted, indices = operation.inputs
    return (
        (negative.op.type, shifted.op.type) == ("Less", "AddV2")
        and negative.op.inputs[0].name == shifted.op.inputs[0].name == indices.name
        and tf.get_static_value(negative.op.inputs[1]) == 0
    )


def _ancestors(place: _Place, ends: Callable[[_Place], bool]) -> Iterator[_Place]:
    """Yield a tensor and all tensors that its values depend on. The walk goes no further where `ends` is true."""
    visited, pending = {place.key}, [place]
    while pending:
        current = pending.pop()
        yield current
        for earlier in [] if ends(current) else _predecessors(current):
            if earlier.key not in visited:
                visited.add(earlier.key)
                pending.append(earlier)


def _differs(place: _Place, varying: set[str]) -> bool:
    """Return whether parts of a batch differ in a tensor by itself: it is named in `varying`, or drawn at random."""
    operation = place.tensor.op
    if not place.calls and place.tensor.name in varying:
        return True
    draws = bool(operation.op_def.is_stateful) and not called_graphs(operation)
    return draws and not operation.type.startswith(_READING)


def _predecessors(place: _Place) -> list[_Place]:
    """Return the tensors on which a tensor's values depend, one step back; the step may enter or leave a function."""
    tensor, operation = place.tensor, place.tensor.op
    if operation.type in _OF_SHAPES:
        return []
    if operation.type == "Placeholder" and place.calls:  # An input of a function: leave it.
        return _outside(place)
    calls = [_Call(operation, attribute, graph) for attribute, graph in called_graphs(operation).items()]
    if not calls:
        return [_Place(source, place.calls) for source in operation.inputs]
    # A call: enter each function at the output that this tensor is. A condition of a loop has one output, on which all
    # of the loop's values depend.
    entered = []
    for call in calls:
        index = 0 if call.attribute == "cond" else tensor.value_index
        entered.append(_Place(call.graph.outputs[index], (*place.calls, call)))
    # Of a conditional also its first input, which chooses the branch.
    choice = operation.inputs[:1] if len(calls) > 1 and "then_branch" in calls[0].attribute else []
    return entered + [_Place(source, place.calls) for source in choice]


def _outside(place: _Place) -> list[_Place]:
    """Return the values of a function's input: the argument of its call, and in a loop also the body's output."""
    *outer, call = place.calls
    index = next((i for i, parameter in enumerate(call.graph.inputs) if parameter.name == place.tensor.name), None)
    if index is None:  # A placeholder of the function's own.
        return []
    # A conditional's own first input chooses the branch; the branches' inputs follow it.
    argument = call.operation.inputs[index + (call.attribute.endswith("_branch"))]
    places = [_Place(argument, tuple(outer))]
    if call.attribute in ("body", "cond"):
        body = _Call(call.operation, "body", called_graphs(call.operation)["body"])
        places.append(_Place(body.graph.outputs[index], (*outer, body)))
    return places
