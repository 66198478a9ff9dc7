"""How the tensors of a step of the user's own depend on the rows of a replica, read off the graph as it grows."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import called_graphs, captured
from kparallel.stage.dependence import Dependence, RowDependence, key_of

__all__: list[str] = []

_DRAWS = ("StatelessRandom", "RandomStandardNormal", "RandomUniform", "TruncatedNormal")
_PASSIVE = ("ReadVariableOp", "VarHandleOp", "Placeholder", "NoOp", "Const")


class StepRows(RowDependence):
    """Tells of the tensors of a step's graph, and of the functions that it calls, how they depend on the rows.

    Args:
        graph: The graph of the step.
        rows: The tensors that hold this replica's rows.
        equal: The keys of the tensors that are equal on all replicas, to which each replica adds those that it makes.
            The graph has the operations of all replicas, and each follows all of them. Default its own alone.
    """

    def __init__(self, graph: Any, rows: Sequence[tf.Tensor], equal: set[tuple[int, str, int]] | None = None) -> None:
        super().__init__(rows, [])
        self._graph = graph
        self._equal: set[tuple[int, str, int]] = set() if equal is None else equal

    def set(self, tensor: tf.Tensor, dependence: Dependence) -> None:
        """Say of a tensor what the graph does not show, such as that it is equal on all replicas."""
        self._known[key_of(tensor)] = dependence
        if dependence is Dependence.NONE:
            self._equal.add(key_of(tensor))

    def _inputs(self, tensor: tf.Tensor) -> list[tf.Tensor]:
        if key_of(tensor) in self._equal:
            return []
        if tensor.op.type == "Placeholder" and tensor.graph is not self._graph:
            # A function's own input that stands for a tensor outside: its dependence is that of the tensor.
            outside = captured(tensor)
            return [outside] if isinstance(outside, tf.Tensor) and hasattr(outside, "op") else []
        return super()._inputs(tensor)

    def _through(self, tensor: tf.Tensor, inputs: list[tf.Tensor]) -> Dependence:
        operation = tensor.op
        if key_of(tensor) in self._equal:
            return Dependence.NONE
        if operation.type == "Equal" and not tensor.shape.rank and operation.inputs[0] is operation.inputs[1]:
            return Dependence.NONE  # By such a comparison, always true, `tf.recompute_grad` waits for a gradient.
        if operation.type == "Placeholder" and tensor.graph is not self._graph:
            # What a function is called with, or a loop carries, is not known inside it.
            if inputs:
                return self.of(inputs[0])
            return Dependence.NONE if captured(tensor) is not None else Dependence.OTHER
        called = called_graphs(operation)
        if called:
            # Nothing that depends on the rows goes in, and nothing is drawn inside: then what comes out is equal on
            # all replicas.
            same = all(self.of(each) is Dependence.NONE for each in operation.inputs)
            same = same and not any(map(_draws, called.values()))
            return Dependence.NONE if same else Dependence.OTHER
        if operation.type.startswith(_DRAWS) and tensor.shape.rank and self._counts_rows(inputs[0]):
            return Dependence.ROWS  # Numbers for each row, as data has them: each replica draws its own.
        found = super()._through(tensor, inputs)
        if found is Dependence.OTHER and operation.type == "Mul":
            return self._scaled_by_rows(inputs)
        return found

    def _counts_rows(self, tensor: tf.Tensor) -> bool:
        while tensor.op.type == "BroadcastTo" and not tensor.shape.rank:
            tensor = tensor.op.inputs[0]
        return super()._counts_rows(tensor)

    def _scaled_by_rows(self, inputs: list[tf.Tensor]) -> Dependence:
        """A mean over the rows, times their number, is a sum over them."""
        # The factors may come in either order.
        for mean, number in (inputs, inputs[::-1]):
            if self.of(mean) is Dependence.MEAN and self.of(number) is Dependence.SUM and self._counts_rows(number):
                return Dependence.SUM
        return Dependence.OTHER


def _draws(graph: Any) -> bool:
    """Tell whether a function does more than compute, read and assign, such as draw at random."""
    for operation in graph.get_operations():
        stateful = operation.op_def is not None and operation.op_def.is_stateful
        called = called_graphs(operation)
        known = operation.type in _PASSIVE or operation.type.startswith(("Assign", "Resource")) or called
        if (stateful and not known) or any(map(_draws, called.values())):
            return True
    return False
