"""A functional model as one flat list of calls in topological order; nested models are opened.

```text
model    x ── embed ── block{ dense ── add } ── head ── y
calls         embed    block/dense  block/add   head
values   0           1             2         3        4       numbered in the order in which they are written
```

Keras treats a nested model as one layer. A cut may fall inside it, so it is opened here. Layers are not copied: a call
holds the model's own layer, so weights, names and files stay the model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.graph import functional_nodes, inner_functional
from kparallel.compat.tensors import set_mask

__all__: list[str] = []

Reads = tuple[tuple[int, int], ...]
Writes = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of a layer or operation.

    Args:
        name: The path of the layer, such as `"encoder/dense_1"`.
        operation: The layer or operation itself.
        arguments: Symbolic tensors among whatever else the call is given. `fill_in` takes the values of the tensors, by
            id, and returns positional and keyword arguments.
        reads: (id of the symbolic tensor in `arguments`, number of the value) for each tensor argument.
        writes: The numbers of the call's outputs.
    """

    name: str
    operation: Any
    arguments: Any
    reads: Reads
    writes: Writes


@dataclass(frozen=True)
class Graph:
    """The calls of a model between its inputs and outputs.

    Args:
        calls: The calls in topological order.
        inputs: The numbers of the model's flat inputs.
        outputs: The numbers of the model's flat outputs.
        structure: The structure of the model's outputs.
        specs: `[number]`: the symbolic tensor of each value.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    structure: Any
    specs: tuple[Any, ...]


def open_graph(model: keras.Model) -> Graph | None:
    """Return the graph of a model, or None if the model overrides `call`.

    Args:
        model: A built model. Functional and Sequential models and subclasses that do not override `call` are graphs.
    """
    functional = inner_functional(model)
    return None if functional is None else _Opening(functional).graph()


class _Opening:
    """The calls and values of a model that is being opened.

    A value's number is its index in `_specs`. The arguments called `numbers` map the symbolic tensors of one level of
    nesting, by id, to the numbers of their values.
    """

    def __init__(self, functional: Any) -> None:
        self._functional = functional
        self._specs: list[Any] = list(functional.inputs)
        self._calls: list[Call] = []

    def graph(self) -> Graph:
        """Open the model."""
        functional = self._functional
        # numbers     id of a symbolic tensor ─► number of its value
        numbers = {id(tensor): number for number, tensor in enumerate(functional.inputs)}
        self._walk(functional, numbers, "")
        outputs = tuple(numbers[id(tensor)] for tensor in functional.outputs)
        inputs = tuple(range(len(functional.inputs)))
        return Graph(tuple(self._calls), inputs, outputs, functional.output, tuple(self._specs))

    def _walk(self, inner: Any, numbers: dict[int, int], path: str) -> None:
        """Append the calls of one level of nesting, and enter the numbers of their outputs."""
        for node in functional_nodes(inner):
            # Keras skips such nodes too: their inputs are not computed from the model's inputs.
            if any(id(tensor) not in numbers for tensor in node.input_tensors):
                continue
            name = path + node.operation.name
            nested = _openable(node)
            if nested is None:
                reads = tuple((id(tensor), numbers[id(tensor)]) for tensor in node.input_tensors)
                writes = self._append(name, node.operation, node.arguments, reads, node.outputs)
                numbers |= {id(tensor): number for tensor, number in zip(node.outputs, writes, strict=True)}
            else:
                inner_numbers = self._enter(node, nested, numbers, name)
                self._walk(nested, inner_numbers, name + "/")
                # The outputs of the call are the values that the nested model's last layers have written.
                numbers |= {id(o): inner_numbers[id(i)] for o, i in zip(node.outputs, nested.outputs, strict=True)}

    def _enter(self, node: Any, nested: Any, numbers: dict[int, int], name: str) -> dict[int, int]:
        """Return the numbers of a nested model's inputs: those of the arguments of its call.

        An argument that comes with a mask becomes a value of its own, which a call of `attach_mask` writes.
        """
        tensors = keras.tree.flatten(node.arguments.args[0])
        given = node.arguments.kwargs.get("mask") if node.arguments.kwargs else None
        masks = [None] * len(tensors) if given is None else keras.tree.flatten(given)
        inner_numbers = {}
        for parameter, argument, mask in zip(nested.inputs, tensors, masks, strict=True):
            number = numbers[id(argument)]
            if mask is not None:
                # Opened, the nested model is no longer called, so nobody would pass the mask to its layers.
                reads = ((id(argument), number), (id(mask), numbers[id(mask)]))
                (number,) = self._append(name + "/mask", attach_mask, MaskedTensor(argument, mask), reads, [argument])
            inner_numbers[id(parameter)] = number
        return inner_numbers

    def _append(self, name: str, operation: Any, arguments: Any, reads: Reads, outputs: Sequence[Any]) -> Writes:
        """Append a call, and return the numbers of its outputs."""
        writes = tuple(range(len(self._specs), len(self._specs) + len(outputs)))
        self._specs.extend(outputs)
        self._calls.append(Call(name, operation, arguments, reads, writes))
        return writes


@dataclass(frozen=True)
class MaskedTensor:
    """The arguments of a call of `attach_mask`.

    Args:
        tensor: The symbolic tensor.
        mask: The symbolic tensor of its mask.
    """

    tensor: Any
    mask: Any

    def fill_in(self, values: dict[int, Any]) -> tuple[tuple[Any, Any], dict[str, Any]]:
        """Return positional and keyword arguments, from the values of the symbolic tensors by id."""
        return (values[id(self.tensor)], values[id(self.mask)]), {}


def attach_mask(tensor: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return a copy of a tensor with a mask attached, for the layers that read it."""
    tensor = tf.identity(tensor)
    set_mask(tensor, mask)
    return tensor


def _openable(node: Any) -> Any:
    """Return the graph inside a nested model if it is called with inputs and masks only, else None."""
    nested = inner_functional(node.operation)
    arguments = node.arguments
    # Any other argument, such as training=False, would be lost with the call.
    further_arguments = {name for name, value in arguments.kwargs.items() if value is not None}
    if nested is None or len(arguments.args) != 1 or further_arguments - {"mask"}:
        return None
    # Keras's call would reshape inputs of another rank, or reject another number of them.
    inputs = keras.tree.flatten(arguments.args[0])
    same_ranks = len(inputs) == len(nested.inputs) and all(
        len(a.shape) == len(b.shape) for a, b in zip(inputs, nested.inputs, strict=True)
    )
    return nested if same_ranks else None
