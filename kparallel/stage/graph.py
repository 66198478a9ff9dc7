"""A functional model as one flat list of calls in topological order, nested models opened.

```text
model:   x ─ embed ─ block{ dense ─ add } ─ head ─ y        values are numbered in the order they are written:
calls:   embed  block/dense  block/add  head                 0   1   2   3   4
```

Keras sees a nested model as one layer; a cut may fall inside it, so it is opened here. Layers are not copied: a
call holds the very layer of the model, so that weights, names and files stay the model's.
"""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.graph import functional_nodes, inner_functional, outputs_structure, symbolic_arguments
from kparallel.compat.tensors import set_mask

__all__: list[str] = []


@dataclass(frozen=True)
class Call:
    """One call of a layer or operation.

    Args:
        name: The path of the layer, such as `"encoder/dense_1"`.
        operation: The layer or operation itself.
        arguments: Keras's symbolic arguments, filled in at each call.
        reads: (id of the symbolic tensor in `arguments`, number of the value) for each tensor argument.
        writes: Numbers of the values that the call makes.
    """

    name: str
    operation: Any
    arguments: Any
    reads: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """The calls of a model between its inputs and outputs.

    Args:
        calls: In topological order.
        inputs: Numbers of the model's flat inputs.
        outputs: Numbers of the model's flat outputs.
        structure: The structure that the model's outputs have.
        specs: Symbolic tensors, by number.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    structure: Any
    specs: tuple[Any, ...]


def open_graph(model: keras.Model) -> Graph | None:
    """Return the graph of a model, or None where its `call` is Python of its own.

    Args:
        model: A built model; Functional and Sequential ones, and their subclasses that keep `call`, are graphs.
    """
    functional = inner_functional(model)
    if functional is None:
        return None
    specs: list[Any] = list(functional.inputs)
    calls: list[Call] = []

    def enter(node: Any, nested: Any, numbers: dict[int, int], name: str) -> dict[int, int]:
        """Number a nested model's inputs; those that come with a mask get it attached first."""
        given = keras.tree.flatten(node.arguments.args[0])
        masks = keras.tree.flatten(node.arguments.kwargs.get("mask")) if node.arguments.kwargs else [None] * len(given)
        own = {}
        for inside, outside, mask in zip(nested.inputs, given, masks, strict=True):
            number = numbers[id(outside)]
            if mask is not None:
                reads = ((id(outside), number), (id(mask), numbers[id(mask)]))
                arguments = symbolic_arguments(outside, mask)
                number = len(specs)
                specs.append(outside)
                calls.append(Call(name + "/mask", attach_mask, arguments, reads, (number,)))
            own[id(inside)] = number
        return own

    def walk(inner: Any, numbers: dict[int, int], path: str) -> None:
        for node in functional_nodes(inner):
            if any(id(tensor) not in numbers for tensor in node.input_tensors):
                continue
            name = path + node.operation.name
            nested = _openable(node)
            if nested is not None:
                own = enter(node, nested, numbers, name)
                walk(nested, own, name + "/")
                numbers |= {id(o): own[id(i)] for o, i in zip(node.outputs, nested.outputs, strict=True)}
                continue
            reads = tuple((id(tensor), numbers[id(tensor)]) for tensor in node.input_tensors)
            writes = tuple(range(len(specs), len(specs) + len(node.outputs)))
            specs.extend(node.outputs)
            numbers |= {id(tensor): number for tensor, number in zip(node.outputs, writes, strict=True)}
            calls.append(Call(name, node.operation, node.arguments, reads, writes))

    numbers = {id(tensor): number for number, tensor in enumerate(functional.inputs)}
    walk(functional, numbers, "")
    outputs = tuple(numbers[id(tensor)] for tensor in functional.outputs)
    inputs = tuple(range(len(functional.inputs)))
    return Graph(tuple(calls), inputs, outputs, outputs_structure(functional), tuple(specs))


def attach_mask(tensor: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return a tensor with a mask for the layers that read it."""
    tensor = tf.identity(tensor)
    set_mask(tensor, mask)
    return tensor


def _openable(node: Any) -> Any:
    """Return the graph inside a nested model that is called with its inputs and their masks only, else None."""
    nested = inner_functional(node.operation)
    arguments = node.arguments
    others = {name for name, value in arguments.kwargs.items() if value is not None}
    if nested is None or len(arguments.args) != 1 or others - {"mask"}:
        return None
    given = keras.tree.flatten(arguments.args[0])
    same = len(given) == len(nested.inputs) and all(
        len(a.shape) == len(b.shape) for a, b in zip(given, nested.inputs, strict=True)
    )
    return nested if same else None
