"""How long a step keeps activations: what each forward action makes and a later backward action reads, times its bytes.

The record is made of the step that `fit` traces: every operation stands in the name scope of its action, such as `2F0`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import tensorflow as tf

from kparallel.engine import forward_backward
from kparallel.engine.executor import Executor
from kparallel.engine.replica_result import ReplicaResult
from kparallel.schedule.action import Action

__all__: list[str] = []

_SCOPE = re.compile(r"(?:^|/)(\d+[FB]\d+)(?:_\d+)?/")


@dataclass
class Lifetimes:
    """Bytes that actions hand on, and the order in which they run.

    Args:
        order: The actions of one replica.
        kept: For each forward action, the bytes that its backward action reads.
        again: For each backward action, the bytes that a forward pass run again gives it.
    """

    order: list[Action] = field(default_factory=list)
    kept: dict[Action, int] = field(default_factory=dict)
    again: dict[Action, int] = field(default_factory=dict)

    def peak(self, stage: int) -> int:
        """Return the most bytes that a stage holds at once."""
        held, most = 0, 0
        for action in self.order:
            if action.stage != stage:
                continue
            if action.kind == "F":
                held += self.kept.get(action, 0)
                most = max(most, held)
            else:
                most = max(most, held + self.again.get(action, 0))
                held -= self.kept.get(Action(stage, "F", action.microbatch), 0)
        return most


def lifetimes(first_step: Callable[[], Any]) -> Lifetimes:
    """Return the record of the training step that a function makes a wrapped model trace."""
    record = Lifetimes()
    with _recorded(record):
        first_step()
    return record


@contextmanager
def _recorded(record: Lifetimes) -> Iterator[None]:
    class Recorder(Executor):
        def run(self, order: Sequence[Action], inputs: Sequence[Any]) -> ReplicaResult:
            graph = tf.compat.v1.get_default_graph()
            before = len(graph.get_operations())
            result = super().run(order, inputs)
            if any(action.kind == "B" for action in order):
                record.order = list(order)
                _record(graph.get_operations()[before:], record)
            return result

    forward_backward.Executor = Recorder  # type: ignore[misc]
    try:
        yield
    finally:
        forward_backward.Executor = Executor  # type: ignore[misc]


def _record(operations: Sequence[Any], record: Lifetimes) -> None:
    home = {}
    for operation in operations:
        if match := _SCOPE.search(operation.name):
            home[operation] = Action.parse(match[1])
    origin = Origin(operations[0].graph)
    seen = set()
    for operation, action in home.items():
        for tensor in map(origin, operation.inputs) if action.kind == "B" else ():
            maker = home.get(tensor.op)
            if maker is None or (action, tensor.ref()) in seen:
                continue
            seen.add((action, tensor.ref()))
            if maker == Action(action.stage, "F", action.microbatch):
                record.kept[maker] = record.kept.get(maker, 0) + tensor_bytes(tensor)
            elif maker == action and _is_call(tensor.op) and _is_call(operation):
                record.again[action] = record.again.get(action, 0) + tensor_bytes(tensor)


class Origin:
    """Tells which tensor another one shares its memory with: operations and functions may hand on what they are given.

    Args:
        graph: A traced graph.
        device: Tells the device of an operation; default the one that it was given.
    """

    def __init__(self, graph: Any, device: Callable[[Any], str] = attrgetter("device")) -> None:
        self._device = device
        self._functions = {function.signature.name: function for function in graph.as_graph_def().library.function}

    def __call__(self, tensor: Any) -> Any:
        while True:
            operation = tensor.op
            if operation.type == "Identity" and self._device(operation) == self._device(operation.inputs[0].op):
                tensor = operation.inputs[0]
            elif operation.type == "IdentityN":
                tensor = operation.inputs[tensor.value_index]
            elif _is_call(operation) and (given := self._given(operation, tensor.value_index)) is not None:
                tensor = operation.inputs[given]
            else:
                return tensor

    def _given(self, call: Any, index: int) -> int | None:
        """Return which input of a call its output is, or None."""
        function = self._functions[call.get_attr("f").name]
        places = {argument.name: place for place, argument in enumerate(function.signature.input_arg)}
        nodes = {node.name: node for node in function.node_def}
        source = function.ret[function.signature.output_arg[index].name]
        while source not in places:
            node = nodes[source.partition(":")[0]]
            if node.op not in ("Identity", "IdentityN"):
                return None
            source = node.input[int(source.rpartition(":")[2]) if node.op == "IdentityN" else 0]
        return places[source]


def _is_call(operation: Any) -> bool:
    return "PartitionedCall" in str(operation.type)


def tensor_bytes(tensor: Any) -> int:
    """Return the bytes of a tensor or variable of known shape."""
    return int(tensor.shape.num_elements()) * int(tensor.dtype.size)
