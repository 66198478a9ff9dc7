"""Tells which operations let rows of a batch meet one another although their result has a value for each row.

```text
x: [rows]      y: [rows, 1]       x - y           [rows, rows]: each row meets every other
a: [rows, 8]   b: [rows, 8]       a @ b.T         [rows, rows]
x: [rows]                         softmax(x)      [rows]: each is divided by a sum over all
x: [rows, 8]                      cumsum(x, 0)    [rows, 8]: each has those before it
```
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

__all__: list[str] = []

_BROADCASTING = {"AddV2", "Add", "Sub", "Mul", "MulNoNan", "RealDiv", "DivNoNan", "FloorDiv", "FloorMod", "SelectV2"}
_BROADCASTING |= {
    "Maximum",
    "Minimum",
    "SquaredDifference",
    "Pow",
    "Atan2",
    "Xlogy",
    "Xdivy",
    "LogicalAnd",
    "LogicalOr",
}
_BROADCASTING |= {"Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual"}
_ALONG_LAST = {"Softmax", "LogSoftmax", "TopKV2"}
_ALONG_DIMS = {"Cumsum", "Cumprod", "ReverseV2", "ArgMax", "ArgMin", "Max", "Min", "Prod", "All", "Any"}
_OF_MATRICES = {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"}


def mixes(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    """Tell whether an operation lets rows meet other rows.

    An operation that is not known here is trusted to keep them apart.

    Args:
        operation: One whose result has an unknown number of rows.
        rows: Of each input, whether it has a value for each row.
    """
    kind = operation.type
    if kind in _BROADCASTING:
        return _other_rank(operation, rows)
    if kind == "MatMul":
        return bool(rows[1])
    if kind in _OF_MATRICES:
        # The last two dims are those of the matrices.
        return operation.outputs[0].shape.rank == 2 or _other_rank(operation, rows)
    if kind in _ALONG_LAST:
        return bool(operation.inputs[0].shape.rank == 1)
    if kind in _ALONG_DIMS:
        return _has_zero(operation.inputs[1], operation.inputs[0].shape.rank)
    further = _FURTHER.get(kind)
    return further is not None and further(operation, rows)


def _other_rank(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    """Tell whether rows are broadcast: then they are not the first dim of the result, or meet another's first dim."""
    rank = operation.outputs[0].shape.rank
    given = [each.shape.rank for each, has_rows in zip(operation.inputs, rows, strict=True) if has_rows]
    return rank is not None and any(each is not None and each != rank for each in given)


def _has_zero(dims: tf.Tensor, rank: int | None) -> bool:
    known = tf.get_static_value(dims)
    return known is not None and rank is not None and 0 in known.reshape(-1) % rank


def _transposed(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    order = tf.get_static_value(operation.inputs[1])
    return order is not None and order[0] != 0


def _rolled(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    return _has_zero(operation.inputs[2], operation.inputs[0].shape.rank)


def _taken(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    by_rows = operation.get_attr("batch_dims") > 0
    return rows[0] and not by_rows and _has_zero(operation.inputs[2], operation.inputs[0].shape.rank)


def _lengthened(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    """Tell whether rows that are equal in all parts, such as those of a memory, are put beside the batch's."""
    *given, _ = rows
    return not all(given) and _has_zero(operation.inputs[-1], operation.outputs[0].shape.rank)


def _padded(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    sizes = tf.get_static_value(operation.inputs[1])
    return sizes is not None and bool(sizes[0].any())


def _einsum(operation: tf.Operation, rows: Sequence[bool]) -> bool:
    given, result = operation.get_attr("equation").decode().split("->")
    firsts = [dims[:1] for dims, has_rows in zip(given.split(","), rows, strict=True) if has_rows]
    return any(first != result[:1] for first in firsts)


_FURTHER: dict[str, Callable[[tf.Operation, Sequence[bool]], bool]] = {
    "Transpose": _transposed,
    "Roll": _rolled,
    "GatherV2": _taken,
    "Einsum": _einsum,
    "ConcatV2": _lengthened,
    "Pad": _padded,
    "PadV2": _padded,
    "MirrorPad": _padded,
}
