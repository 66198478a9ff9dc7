"""A part of a traced graph as a function of its own, without tracing it again.

```text
graph     a ─► [ op ─► t ─► op ] ─► b        the part in brackets takes a and gives b, and t if another part reads it
```
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import called_graphs, traced

__all__: list[str] = []


class TracedGraph:
    """A traced graph from which parts are cut.

    Args:
        graph: The graph of a function.
        anew: Operations of the graph that stand for arguments which every part is given anew. Default none.

    `repeated` has the operations that each part which reads them has for itself: constants, and what follows from
    constants and such arguments alone.
    """

    def __init__(self, graph: Any, anew: Set[tf.Operation] = frozenset()) -> None:
        self.repeated = _constants(graph)
        if anew:
            self.repeated |= _following(graph, self.repeated | anew)
        self._definition = graph.as_graph_def()

    def part(self, operations: set[tf.Operation], gives: Iterable[tf.Tensor], jit: bool) -> "GraphPart":
        """Return a part.

        Repeated operations belong to every part that reads them. A constant that is handed over, such as a shape, would
        be none for XLA any more; and what is handed over takes memory until the other part has run.

        Args:
            operations: The operations of the part.
            gives: The tensors that the part returns, computed by it or repeated.
            jit: Whether to compile the part with XLA.
        """
        results = list(gives)
        read = [tensor for operation in operations for tensor in operation.inputs] + results
        # A control edge of a repeated operation says nothing about its value.
        needed = ancestors([tensor for tensor in read if tensor.op in self.repeated], set()) & self.repeated
        own = operations | needed
        return GraphPart(_nodes(self._definition, own), own, results, jit)


class GraphPart:
    """Some operations of a graph, as a function from tensors by their name to tensors by their name.

    Args:
        definition: The operations' definition.
        operations: The operations.
        gives: The tensors that the part returns.
        jit: Whether to compile the part with XLA.

    `function` is the concrete function that is called, None for a part that gives nothing.
    """

    def __init__(self, definition: Any, operations: set[tf.Operation], gives: list[tf.Tensor], jit: bool) -> None:
        outside = [t for operation in operations for t in operation.inputs if t.op not in operations]
        self.takes, self.gives = _by_name(outside), _by_name(gives)

        def run(*arguments: tf.Tensor) -> list[tf.Tensor]:
            mapping = {taken.name: argument for taken, argument in zip(self.takes, arguments, strict=True)}
            names = [tensor.name for tensor in self.gives]
            results = tf.graph_util.import_graph_def(definition, mapping, names, name="")
            for result, tensor in zip(results, self.gives, strict=True):
                result.set_shape(tensor.shape)  # Shapes that Python had set are not part of a definition.
            return list(results)

        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in self.takes]
        self.function = traced(run, jit_compile=jit or None).get_concrete_function(*specs) if self.gives else None

    def __call__(self, values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Run the part.

        Args:
            values: By the name that the tensor has in the traced graph: at least all of `takes`.

        Returns:
            The tensors of `gives`, by the same names.
        """
        if self.function is None:
            return {}
        results = self.function(*(values[tensor.name] for tensor in self.takes))
        return {tensor.name: result for tensor, result in zip(self.gives, results, strict=True)}


def ancestors(tensors: Iterable[tf.Tensor], ends: set[tf.Operation]) -> set[tf.Operation]:
    """Return the operations on which tensors depend, up to those of `ends`, which are left out."""
    pending = [tensor.op for tensor in tensors]
    found: set[tf.Operation] = set()
    while pending:
        operation = pending.pop()
        if operation not in found and operation not in ends:
            found.add(operation)
            pending += [tensor.op for tensor in operation.inputs]
            pending += operation.control_inputs
    return found


def _constants(graph: Any) -> set[tf.Operation]:
    """Return the operations of a graph whose results no input changes."""
    found: set[tf.Operation] = set()
    for operation in graph.get_operations():
        pure = operation.inputs and not operation.op_def.is_stateful and not called_graphs(operation)
        if operation.type == "Const" or (pure and all(tensor.op in found for tensor in operation.inputs)):
            found.add(operation)
    return found


def _following(graph: Any, known: Set[tf.Operation]) -> set[tf.Operation]:
    """Return the operations, in a graph's order, that do nothing but compute from known ones and from each other."""
    found: set[tf.Operation] = set()
    for operation in graph.get_operations():
        pure = operation.inputs and not operation.op_def.is_stateful
        if pure and all(tensor.op in known or tensor.op in found for tensor in operation.inputs):
            found.add(operation)
    return found


def _by_name(tensors: Iterable[tf.Tensor]) -> list[tf.Tensor]:
    """Return tensors once each, in an order that does not depend on the process."""
    by_name = {tensor.name: tensor for tensor in tensors}
    return [by_name[name] for name in sorted(by_name)]


def _nodes(whole: Any, operations: set[tf.Operation]) -> Any:
    """Return some operations of a definition, with the functions that they call."""
    names = {operation.name for operation in operations}
    part = tf.compat.v1.GraphDef(versions=whole.versions)
    for node in whole.node:
        if node.name in names:
            copy = part.node.add()
            copy.CopyFrom(node)
            # What another part does has been done before this part is called.
            del copy.input[:]
            copy.input.extend(each for each in node.input if not each.startswith("^") or each[1:] in names)
            copy.attr.pop("_class", None)  # A colocation with an operation that may be in another part.
    part.library.CopyFrom(_library(whole, part))
    return part


def _library(whole: Any, part: Any) -> Any:
    """Return those functions of a graph that the nodes of a part call, directly or not."""
    by_name = {function.signature.name: function for function in whole.library.function}
    pending, found = list(part.node), {}
    while pending:
        for attribute in pending.pop().attr.values():
            for call in (attribute.func, *attribute.list.func):
                function = by_name.get(call.name)
                if function is not None and call.name not in found:
                    found[call.name] = function
                    pending += function.node_def
    gradients = [each for each in whole.library.gradient if each.function_name in found]
    return type(whole.library)(function=found.values(), gradient=gradients)
