"""Finds how a value depends on the rows of its batch, by abstract interpretation of the graph that computes it.

After a divided batch, a variable must have the value that it would have on one device. Whether the values after the
parts determine it depends on how the new value depends on the rows:

```text
count of batches                 NONE    the same after each part
sum over the rows                SUM     the changes of the parts are summed
moving average of a row mean     MEAN    the average over the parts, weighted by their rows
variance, maximum, random        OTHER   not determined
```

Each operation maps the dependences of its inputs to the dependence of its output:

```text
x: ROWS ─► Square: ROWS ─► Sum over dim 0: SUM ─┐
                                                ├─► RealDiv: MEAN ─► Mul by 0.1: MEAN ─► AddV2: MEAN
x: ROWS ─► Shape ─► [0]: SUM (number of rows) ──┘                       old × 0.9: NONE ──┘
```
"""

import enum
from collections.abc import Sequence

import tensorflow as tf

from kparallel.stage.mixed_rows import mixes

__all__: list[str] = []


class Dependence(enum.Enum):
    """How a tensor depends on the rows of a batch."""

    NONE = "the same whatever the rows are"
    SUM = "a sum over the rows, which is 0 without rows"
    MEAN = "a mean over the rows, scaled and shifted by what does not depend on them"
    ROWS = "a value for each row"
    OTHER = "anything else, or drawn at random"


# Operations that are linear in their first input. Their other inputs (positions, shapes, a divisor) must not depend on
# the rows.
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
_SHAPED = {"Fill", "BroadcastTo"}  # Their number of rows is that of a given shape; all rows are equal.
_SOME_ROWS = {"Where", "Unique", "UniqueV2", "DynamicPartition"}  # Their number of rows depends on the rows' values.


class RowDependence:
    """Finds how the tensors of one graph depend on the rows.

    Args:
        rows: The tensors whose first dim is the rows; its size is unknown in the graph.
        random: The tensors that differ between parts for other reasons, such as the states of seeds.
    """

    def __init__(self, rows: Sequence[tf.Tensor], random: Sequence[tf.Tensor]) -> None:
        self._known: dict[tuple[int, str, int], Dependence] = {key_of(tensor): Dependence.ROWS for tensor in rows}
        self._known |= {key_of(tensor): Dependence.OTHER for tensor in random}

    def of(self, tensor: tf.Tensor) -> Dependence:
        """Return how a tensor depends on the rows."""
        # A depth-first walk with a stack of its own, since graphs are deeper than Python's recursion limit. A tensor
        # stays on the stack until all of its inputs are known.
        pending = [tensor]
        while pending:
            top = pending[-1]
            if key_of(top) in self._known:
                pending.pop()
                continue
            inputs = self._inputs(top)
            unknown = [source for source in inputs if key_of(source) not in self._known]
            if unknown:
                pending += unknown
                continue
            self._known[key_of(top)] = self._through(top, inputs)
            pending.pop()
        return self._known[key_of(tensor)]

    def of_update(self, new: tf.Tensor, old: tf.Tensor) -> Dependence:
        """Return how the new value of a variable depends on the rows.

        For a variable `SUM` means that a sum over the rows is added to the old value: only then do the changes of the
        parts add up. A sum that replaces the old value is `OTHER`.
        """
        result = self.of(new)
        if result not in (Dependence.SUM, Dependence.OTHER):
            return result
        # `of` gives OTHER for old + sum, so the addition is looked at here.
        # new = old + sum      AddV2 of a read of the variable, and of something that is SUM
        while new.op.type in ("Identity", "IdentityN", "StopGradient"):
            new = new.op.inputs[new.value_index]
        if new.op.type not in ("AddV2", "Add"):
            return Dependence.OTHER
        origins = [_origin(summand) for summand in new.op.inputs]
        changes = [
            summand for summand, origin in zip(new.op.inputs, origins, strict=True) if key_of(origin) != key_of(old)
        ]
        adds_sum = len(changes) == 1 and self.of(changes[0]) is Dependence.SUM
        return Dependence.SUM if adds_sum else Dependence.OTHER

    def _inputs(self, tensor: tf.Tensor) -> list[tf.Tensor]:
        """Return the tensors from which a tensor is computed."""
        operation = tensor.op
        # Of several inputs only that of this output; of a reshape only the data, since its new shape may name the rows.
        if operation.type == "IdentityN":
            return [operation.inputs[tensor.value_index]]
        if operation.type == "Reshape":
            return [operation.inputs[0]]
        return list(operation.inputs)

    def _through(self, tensor: tf.Tensor, inputs: list[tf.Tensor]) -> Dependence:
        """Return the dependence of an operation's output from those of its inputs. The first rule that fits decides."""
        kind = tensor.op.type
        # A stateful operation that is no read draws random numbers, or does something unknown.
        if tensor.op.op_def.is_stateful and kind not in _READS:
            return Dependence.OTHER
        of_inputs = [self._known[key_of(source)] for source in inputs]
        if all(of_input is Dependence.NONE for of_input in of_inputs):
            return Dependence.NONE
        # `zeros_like(x)`, or a constant that is broadcast to the rows: the shape depends on them.
        if kind in _SHAPED and _has_rows(tensor):
            return Dependence.ROWS
        # `shape(x)[0]`: the number of rows is the sum of a 1 for each row.
        if _is_row_count(tensor) and self._known[key_of(inputs[0].op.inputs[0])] is Dependence.ROWS:
            return Dependence.SUM
        # A sum over the rows divided by their number, or by a fixed multiple of it.
        if kind in _QUOTIENTS and of_inputs == [Dependence.SUM, Dependence.SUM] and self._counts_rows(inputs[1]):
            return Dependence.MEAN
        # `prod(shape(x))`: the number of entries.
        if kind == "Prod" and self._counts_rows(tensor):
            return Dependence.SUM
        if Dependence.OTHER in of_inputs:
            return Dependence.OTHER
        if Dependence.ROWS in of_inputs:
            return _of_rows(tensor, of_inputs)
        return _of_reduced(tensor, of_inputs)

    def _counts_rows(self, tensor: tf.Tensor) -> bool:
        """Return whether a tensor is the number of rows times a constant, such as the number of entries."""
        while tensor.op.type in ("Cast", "Identity"):
            tensor = tensor.op.inputs[0]
        inputs = list(tensor.op.inputs)
        if tensor.op.type == "Size" or _is_row_count(tensor):
            source = inputs[0] if tensor.op.type == "Size" else inputs[0].op.inputs[0]
            return self._known[key_of(source)] is Dependence.ROWS
        if tensor.op.type == "Shape":
            return self._known[key_of(inputs[0])] is Dependence.ROWS
        if tensor.op.type == "Prod":
            return self._counts_rows(inputs[0])
        if tensor.op.type not in ("Mul", "Pack"):
            return False
        # A product, or a shape that is built from parts: exactly one factor may depend on the rows.
        factors = [source for source in inputs if self._known[key_of(source)] is not Dependence.NONE]
        return len(factors) == 1 and self._counts_rows(factors[0])


def _of_rows(tensor: tf.Tensor, of_inputs: list[Dependence]) -> Dependence:
    """Return the dependence of an operation's output if some of its inputs are `ROWS`."""
    kind, only_rows = tensor.op.type, set(of_inputs[1:]) <= {Dependence.NONE}
    if kind in _REDUCTIONS and only_rows:
        # Input 1 holds the reduced dims; a negative one counts from the end. Reduced over inner dims, rows stay rows.
        dims = tf.get_static_value(tensor.op.inputs[1])
        if dims is not None and 0 in dims.reshape(-1) % tensor.op.inputs[0].shape.rank:
            return _REDUCTIONS[kind]
    if kind == "Size":
        return Dependence.SUM
    if any(row_bounds(tensor.op)):  # `x[1:]`: rows by their places in the batch.
        return Dependence.OTHER
    # Unknown operations are trusted to keep rows apart if the first dim is still the rows. One that mixes rows unseen
    # is documented: the user says loss_reduction="global".
    separate = _has_rows(tensor) and kind not in _SOME_ROWS and set(of_inputs) <= {Dependence.ROWS, Dependence.NONE}
    # A reshape has the data as its one input here.
    separate = separate and (kind == "Reshape" or not mixes(tensor.op, [each is Dependence.ROWS for each in of_inputs]))
    return Dependence.ROWS if separate else Dependence.OTHER


def row_bounds(operation: tf.Operation) -> list[int]:
    """Return the constants by which an operation slices its rows, as `x[2:64]` does; 0 where the slice begins there."""
    if operation.type != "StridedSlice":
        return []
    masks = [operation.get_attr(f"{name}_mask") & 1 for name in ("begin", "end", "ellipsis", "new_axis")]
    bounds = [tf.get_static_value(bound) for bound in operation.inputs[1:3]]
    if any(masks[2:]):
        return []
    return [int(b[0]) for b, mask in zip(bounds, masks[:2], strict=True) if not mask and b is not None and b.size]


def _has_rows(tensor: tf.Tensor) -> bool:
    return bool(tensor.shape.rank) and tensor.shape[0] is None


def _is_row_count(tensor: tf.Tensor) -> bool:
    """Return whether a tensor is `shape(x)[0]`."""
    operation = tensor.op
    if operation.type != "StridedSlice" or operation.inputs[0].op.type != "Shape":
        return False
    begin, end = (tf.get_static_value(bound) for bound in operation.inputs[1:3])
    return begin is not None and end is not None and begin.tolist() == [0] and end.tolist() == [1]


def _of_reduced(tensor: tf.Tensor, of_inputs: list[Dependence]) -> Dependence:
    """Return the dependence of an operation's output if its inputs are `SUM`, `MEAN` or `NONE`."""
    kind = tensor.op.type
    depending = {of_input for of_input in of_inputs if of_input is not Dependence.NONE}
    if len(depending) > 1:
        return Dependence.OTHER
    reduced = depending.pop()
    # A constant may be added to a mean, but not to a sum: each part would add it.
    if kind in _SUMS | {"Pack", "ConcatV2"}:
        return reduced if reduced is Dependence.MEAN or Dependence.NONE not in of_inputs else Dependence.OTHER
    if kind == "Cast":  # A cast of a float to an integer truncates, which is not linear.
        linear = tensor.dtype.is_floating or tensor.op.inputs[0].dtype.is_integer
        return reduced if linear else Dependence.OTHER
    # A product is linear in one factor if the other does not depend on the rows.
    if kind in _PRODUCTS and of_inputs.count(reduced) == 1:
        return reduced
    if (kind in _LINEAR or kind in _REDUCTIONS) and of_inputs[0] is not Dependence.NONE:
        return reduced if all(of_input is Dependence.NONE for of_input in of_inputs[1:]) else Dependence.OTHER
    return Dependence.OTHER


def _origin(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def key_of(tensor: tf.Tensor) -> tuple[int, str, int]:
    """Return what tells a tensor from all others while its graph exists."""
    return id(tensor.graph), tensor.op.name, tensor.value_index
