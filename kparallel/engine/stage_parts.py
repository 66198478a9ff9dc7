"""The three parts of a stage's traced graph: its forward pass and the two parts of its backward pass.

```text
given     weights, state, inputs, cotangents
F         what the results depend on
B         what the gradients of the inputs depend on beside it
W         what the gradients of the weights depend on beside both
```

What no part computes and several read, such as constants, is repeated in each of them.
"""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kparallel.engine.graph_part import TracedGraph, ancestors
from kparallel.stage.stage import Forward

__all__: list[str] = []


@dataclass(frozen=True)
class Joint:
    """The tensors of a graph that has both passes.

    Args:
        arguments: The tensors among weights, state and inputs.
        weights: The number of weights, which come first.
        forward: The result of the forward pass.
        stateful: The operations of the forward pass that do something beside their results, such as assertions.
        upstream: Placeholders for the cotangents of the leaves of the outputs, then of the added losses.
        of_inputs, of_weights: The gradients.
    """

    arguments: list[tf.Tensor]
    weights: int
    forward: Forward
    stateful: list[tf.Operation]
    upstream: list[tf.Tensor | None]
    of_inputs: list[tf.Tensor | None]
    of_weights: list[Any]


class Parts:
    """The three parts of a graph.

    Args:
        function: The traced function; it keeps alive the functions that its graph calls.
        joint: Its tensors.
        jit: Whether to compile the parts with XLA.
        renews: As `SplitFunction` takes it.
    """

    def __init__(self, function: Any, joint: Joint, jit: bool, renews: bool) -> None:
        self._function = function
        self.joint = joint
        graph, captured = function.graph, function.captured_inputs
        self.captures = list(zip(captured, function.inputs[len(function.inputs) - len(captured) :], strict=True))
        upstream = [tensor for tensor in joint.upstream if tensor is not None]
        given = {tensor.op for tensor in [*function.inputs, *upstream]}
        of_inputs, of_weights = tensors_of(joint.of_inputs), tensors_of(joint.of_weights)
        results = tensors_of(returned(joint.forward))
        anew = {tensor.op for tensor in joint.arguments[: joint.weights]} if renews else set()
        traced_graph = TracedGraph(graph, anew)
        self.repeated = traced_graph.repeated
        self.forward_pass = given | ancestors(results, given)
        for operation in joint.stateful:
            self.forward_pass |= {operation} | ancestors(operation.inputs, given)
        # A repeated operation is in every part that reads it, and its result is handed over by none.
        first = self.forward_pass | self.repeated
        of_input = ancestors(of_inputs, first)
        of_weight = ancestors(of_weights, first | of_input)
        # What a later part reads of an earlier one, or returns for it.
        read = [*of_inputs, *of_weights, *(t for each in of_input | of_weight for t in each.inputs)]
        saved = [tensor for tensor in read if tensor.op in self.forward_pass - given - self.repeated]
        handed = [*of_weights, *(tensor for each in of_weight for tensor in each.inputs)]
        inner = [tensor for tensor in handed if tensor.op in of_input]
        own = [tensor for tensor in of_inputs if tensor.op in of_input | self.repeated]
        gives = [tensor for tensor in [*results, *saved] if tensor.op not in given]
        self.forward = traced_graph.part(self.forward_pass - given, gives, jit)
        self.of_inputs = traced_graph.part(of_input, [*own, *inner], jit)
        last = [tensor for tensor in of_weights if tensor.op in of_weight | self.repeated]
        self.of_weights = traced_graph.part(of_weight, last, jit)

    def depends_on(self, gradient: Any, leaves: set[str]) -> bool:
        """Return whether a gradient depends on a cotangent.

        Args:
            gradient: A gradient of the graph.
            leaves: The names of the placeholders of the cotangents that there are.
        """
        before = ancestors(tensors_of(gradient), self.repeated)
        return any(operation.outputs and operation.outputs[0].name in leaves for operation in before)


def returned(forward: Forward) -> tuple[Any, ...]:
    """Return what a forward pass returns, as one structure."""
    return forward.outputs, forward.added, forward.assigned, forward.state


def tensors_of(structure: Any) -> list[tf.Tensor]:
    """Return the tensors of a structure; those of slices one by one."""
    flat = tf.nest.flatten(structure, expand_composites=True)
    return [leaf for leaf in flat if isinstance(leaf, tf.Tensor)]
