"""How what a layer assigns depends on the rows of its batch, found in the graph that its call makes.

A batch that is divided has to leave the state that one device would leave. A count of batches is the same whatever the
rows are; a sum over the rows adds up over parts; a moving average of a batch's mean is the mean of the parts' weighted
by their rows. Anything else, such as a variance, is no function of what the parts give.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kparallel.compat.distribute import one_replica_view

__all__: list[str] = []

Updates = Callable[[Any, Any, Any, Any], tuple[list[Any], list[Any], list[Any]]]


class Dependence(enum.Enum):
    """How a tensor depends on the rows."""

    NONE = "the same whatever the rows are"
    SUM = "a sum over the rows, which is 0 without rows"
    MEAN = "a mean over the rows, scaled and shifted by what does not depend on them"
    ROWS = "a value for each row"
    OTHER = "anything else, or drawn at random"


# Linear in their first input; the other inputs say where, or by how much, and must not depend on rows.
_LINEAR = {
    "Identity",
    "StopGradient",
    "Reshape",
    "Squeeze",
    "ExpandDims",
    "Transpose",
    "StridedSlice",
    "Neg",
    "Snapshot",
}
_LINEAR |= {"PreventGradient", "CheckNumerics", "EnsureShape", "GatherV2", "BroadcastTo", "Tile", "RealDiv"}
_SUMS = {"AddV2", "Add", "Sub", "AddN"}
_PRODUCTS = {"Mul", "MatMul", "BatchMatMulV2", "Einsum"}
_REDUCTIONS = {"Sum": Dependence.SUM, "Mean": Dependence.MEAN}
_READS = {"ReadVariableOp", "VarHandleOp", "Placeholder"}
_QUOTIENTS = {"RealDiv", "DivNoNan"}
_SHAPED = {"Fill", "BroadcastTo"}  # Have as many rows as a shape says, each the same.
_SOME_ROWS = {"Where", "Unique", "UniqueV2", "DynamicPartition"}  # Give as many as the values of rows tell.


def dependence(value: Callable[..., tf.Tensor], arguments: Sequence[Any]) -> Dependence:
    """Return how a value depends on the rows that it is computed from.

    Args:
        value: Takes `arguments`.
        arguments: Structures of tensors, or None, with the rows as their first dim.

    Returns:
        The dependence; `OTHER` where the value cannot be computed of an unknown number of rows.
    """

    def updates(_: Any, state: Any, inputs: Any, masks: Any) -> tuple[list[Any], list[Any], list[Any]]:
        computed = value(*inputs)
        start = tf.zeros((), computed.dtype)
        return [start], [start + computed], []

    return dependences(updates, ([], [], list(arguments), []), [])[0]


def dependences(updates: Updates, arguments: tuple[Any, ...], held: Sequence[bool]) -> list[Dependence]:
    """Return how a call's updates depend on the rows.

    Args:
        updates: Takes (weights, state, inputs, masks); returns old values, new ones or None where nothing changes, and
            the old ones that are random.
        arguments: Of one call.
        held: Which state holds rows, as inputs do.

    Returns:
        One for each old value, `NONE` where nothing changes. A call that does not stand an unknown number of rows is
        asked with the one it has. State is then anything else, since it may be made of that number; weights are not.
    """
    try:
        return _traced(updates, _specs(arguments, held), held)
    except Exception:  # Whatever a layer raises that needs to know the number of rows.
        found = _traced(updates, tf.nest.map_structure(_spec, arguments), held)
        weights = len(arguments[0])
        return found[:weights] + [Dependence.OTHER] * len(found[weights:])


def _traced(updates: Updates, specs: tuple[Any, ...], held: Sequence[bool]) -> list[Dependence]:
    found: list[Dependence] = []

    def call(weights: Any, state: Any, inputs: Any, masks: Any) -> None:
        olds, news, random = updates(weights, state, inputs, masks)
        carried = [value for value, holds in zip(state, held, strict=True) if holds]
        data = tf.nest.flatten([inputs, masks, carried], expand_composites=True)
        rows = RowDependence([tensor for tensor in data if tf.is_tensor(tensor)], random)
        for old, new in zip(olds, news, strict=True):
            found.append(Dependence.NONE if new is None else rows.of_update(new, old))

    with one_replica_view():
        tf.function(call, autograph=False).get_concrete_function(*specs)
    return found


def _specs(arguments: tuple[Any, ...], held: Sequence[bool]) -> tuple[Any, ...]:
    """Return what tensors the arguments are, of an unknown number of rows."""
    weights, state, *data = tf.nest.map_structure(_spec, arguments)
    state = [_without_rows(spec) if holds else spec for spec, holds in zip(state, held, strict=True)]
    return (weights, state, *(tf.nest.map_structure(_without_rows, each) for each in data))


def _spec(value: Any) -> Any:
    return None if value is None else tf.type_spec_from_value(value)


def _without_rows(spec: Any) -> Any:
    if spec is None or not spec.shape.rank:
        return spec
    shape = [None, *spec.shape[1:]]
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
    return type(spec)(shape, spec.dtype)


class RowDependence:
    """Tells of the tensors of one graph how they depend on the rows.

    Args:
        rows: The tensors that hold rows, in their first dim, whose size the graph does not know.
        random: The tensors that differ between parts otherwise, such as seeds' states.
    """

    def __init__(self, rows: Sequence[tf.Tensor], random: Sequence[tf.Tensor]) -> None:
        self._known: dict[tuple[int, str, int], Dependence] = {_key(tensor): Dependence.ROWS for tensor in rows}
        self._known |= {_key(tensor): Dependence.OTHER for tensor in random}

    def of(self, tensor: tf.Tensor) -> Dependence:
        """Return how a tensor depends on the rows."""
        pending = [tensor]  # No recursion: graphs are deeper than Python's stack.
        while pending:
            top = pending[-1]
            if _key(top) in self._known:
                pending.pop()
                continue
            inputs = self._inputs(top)
            unknown = [each for each in inputs if _key(each) not in self._known]
            if unknown:
                pending += unknown
                continue
            self._known[_key(top)] = self._through(top, inputs)
            pending.pop()
        return self._known[_key(tensor)]

    def of_update(self, new: tf.Tensor, old: tf.Tensor) -> Dependence:
        """Return how the new value of a variable depends on the rows; a sum is one that is added to the old value."""
        found = self.of(new)
        if found not in (Dependence.SUM, Dependence.OTHER):
            return found
        while new.op.type in ("Identity", "IdentityN", "StopGradient"):
            new = new.op.inputs[new.value_index]
        if new.op.type not in ("AddV2", "Add"):
            return Dependence.OTHER
        ends = [_origin(each) for each in new.op.inputs]
        others = [each for each, end in zip(new.op.inputs, ends, strict=True) if _key(end) != _key(old)]
        added = len(others) == 1 and self.of(others[0]) is Dependence.SUM
        return Dependence.SUM if added else Dependence.OTHER

    def _inputs(self, tensor: tf.Tensor) -> list[tf.Tensor]:
        """Return what a tensor is computed from."""
        operation = tensor.op
        if operation.type == "IdentityN":
            return [operation.inputs[tensor.value_index]]
        if operation.type == "Reshape":
            return [operation.inputs[0]]
        return list(operation.inputs)

    def _through(self, tensor: tf.Tensor, inputs: list[tf.Tensor]) -> Dependence:
        kind = tensor.op.type
        if tensor.op.op_def.is_stateful and kind not in _READS:
            return Dependence.OTHER
        ways = [self._known[_key(each)] for each in inputs]
        if all(way is Dependence.NONE for way in ways):
            return Dependence.NONE
        if kind in _SHAPED and _has_rows(tensor):
            return Dependence.ROWS
        if _is_row_count(tensor) and self._known[_key(inputs[0].op.inputs[0])] is Dependence.ROWS:
            return Dependence.SUM
        if kind in _QUOTIENTS and ways == [Dependence.SUM, Dependence.SUM] and self._counts_rows(inputs[1]):
            return Dependence.MEAN
        if kind == "Prod" and self._counts_rows(tensor):
            return Dependence.SUM
        if Dependence.OTHER in ways:
            return Dependence.OTHER
        if Dependence.ROWS in ways:
            return _of_rows(tensor, ways)
        return _of_reduced(tensor, ways)

    def _counts_rows(self, tensor: tf.Tensor) -> bool:
        """Tell whether a tensor is the number of rows, or that of entries, as many for each row."""
        while tensor.op.type in ("Cast", "Identity"):
            tensor = tensor.op.inputs[0]
        inputs = list(tensor.op.inputs)
        if tensor.op.type == "Size" or _is_row_count(tensor):
            source = inputs[0] if tensor.op.type == "Size" else inputs[0].op.inputs[0]
            return self._known[_key(source)] is Dependence.ROWS
        if tensor.op.type == "Shape":
            return self._known[_key(inputs[0])] is Dependence.ROWS
        if tensor.op.type == "Prod":
            return self._counts_rows(inputs[0])
        if tensor.op.type not in ("Mul", "Pack"):
            return False
        others = [each for each in inputs if self._known[_key(each)] is not Dependence.NONE]
        return len(others) == 1 and self._counts_rows(others[0])


def _of_rows(tensor: tf.Tensor, ways: list[Dependence]) -> Dependence:
    """Return how the result of an operation on rows depends on them."""
    kind, only_rows = tensor.op.type, set(ways[1:]) <= {Dependence.NONE}
    if kind in _REDUCTIONS and only_rows:
        dims = tf.get_static_value(tensor.op.inputs[1])
        if dims is not None and 0 in dims.reshape(-1) % tensor.op.inputs[0].shape.rank:
            return _REDUCTIONS[kind]
    if kind == "Size":
        return Dependence.SUM
    apart = _has_rows(tensor) and kind not in _SOME_ROWS and set(ways) <= {Dependence.ROWS, Dependence.NONE}
    return Dependence.ROWS if apart else Dependence.OTHER


def _has_rows(tensor: tf.Tensor) -> bool:
    return bool(tensor.shape.rank) and tensor.shape[0] is None


def _is_row_count(tensor: tf.Tensor) -> bool:
    """Tell whether a tensor is the first entry of another's shape."""
    operation = tensor.op
    if operation.type != "StridedSlice" or operation.inputs[0].op.type != "Shape":
        return False
    begin, end = (tf.get_static_value(each) for each in operation.inputs[1:3])
    return begin is not None and end is not None and begin.tolist() == [0] and end.tolist() == [1]


def _of_reduced(tensor: tf.Tensor, ways: list[Dependence]) -> Dependence:
    """Return how the result of an operation on sums or means depends on the rows."""
    kind = tensor.op.type
    depending = {way for way in ways if way is not Dependence.NONE}
    if len(depending) > 1:
        return Dependence.OTHER
    way = depending.pop()
    if kind in _SUMS | {"Pack", "ConcatV2"}:
        return way if way is Dependence.MEAN or Dependence.NONE not in ways else Dependence.OTHER
    if kind == "Cast":  # To an integer it cuts off.
        return way if tensor.dtype.is_floating else Dependence.OTHER
    if kind in _PRODUCTS and ways.count(way) == 1:
        return way
    if (kind in _LINEAR or kind in _REDUCTIONS) and ways[0] is not Dependence.NONE:
        return way if all(other is Dependence.NONE for other in ways[1:]) else Dependence.OTHER
    return Dependence.OTHER


def _origin(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _key(tensor: tf.Tensor) -> tuple[int, str, int]:
    return id(tensor.graph), tensor.op.name, tensor.value_index
