"""A function that is traced once and called by every replica, each with its own copies of the variables.

```text
trace on one replica          call on replica 0                       call on replica 1
f(x, capture 0, capture 1)    f(x0, kernel's copy 0, table)           f(x1, kernel's copy 1, table)
```

A capture that is a replica's copy of a variable is exchanged for the present replica's copy. All others stay.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from kparallel.compat.distribute import local_replica, reads_replica_number
from kparallel.compat.functions import called_graphs, calls_unknown
from kparallel.compat.variables import copies_beside

__all__: list[str] = []

# How the types of operations begin whose attributes say which replica they belong to.
_BOUND = ("Collective", "Nccl")


class NotShared(Exception):
    """A function would not do the same for another replica."""


class SharedFunction:
    """Calls a function with the present replica's copies of the variables that it captured.

    Args:
        function: A concrete function, traced in the context of a replica, which is the present one.

    Raises:
        NotShared: The function belongs to its replica: it names a device, takes part in a collective, reads the
            replica's number, or has captured something that another replica does not have.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        if not tf.distribute.has_strategy():
            raise NotShared("was traced in no replica's context")
        _refuse_bound(function)
        # Of each capture the handles of all replicas, or itself alone if they share it.
        self._captures = [_of_replicas(each, local_replica()) for each in function.captured_inputs]

    def __call__(self, *arguments: Any) -> Any:
        """Call the function on the active device with the present replica's copies, and return what it returns."""
        local = local_replica()
        # The captures are arguments of the call that is traced next, so they are set anew before each.
        self._function.set_external_captures([each[local if len(each) > 1 else 0] for each in self._captures])
        return self._function(*arguments)


def is_pure(function: Any) -> bool:
    """Tell whether any replica may call a concrete function as it is: its result follows from its arguments alone.

    Args:
        function: It.
    """
    try:
        _refuse_bound(function)
    except NotShared:
        return False
    stateful = any(operation.op_def.is_stateful for operation in operations_of(function.graph))
    return not stateful and not any(map(tf.is_symbolic_tensor, function.captured_inputs))


def callable_here(function: Any) -> Any:
    """Return a concrete function as what may be called again, in the step's graph and in graphs of other sizes.

    In a replica's context that is a `SharedFunction`. Elsewhere it is the function itself, with the variables that it
    captured.

    Args:
        function: It.

    Raises:
        NotShared: As `SharedFunction`; elsewhere if it captures what another graph does not have.
    """
    if tf.distribute.has_strategy():
        return SharedFunction(function)
    if function.graph.deferred_external_captures or any(map(tf.is_symbolic_tensor, function.captured_inputs)):
        raise NotShared("captures what belongs to the graph that calls it")
    return function


def operations_of(graph: Any) -> Iterator[tf.Operation]:
    """Yield the operations of a graph and of all functions that they call."""
    for operation in graph.get_operations():
        yield operation
        for inner in called_graphs(operation).values():
            yield from operations_of(inner)


def _refuse_bound(function: Any) -> None:
    """Refuse a function that belongs to the replica that has traced it."""
    if function.graph.deferred_external_captures:
        raise NotShared("captures what is known only when it is called")
    for operation in operations_of(function.graph):
        if operation.device:
            raise NotShared(f"{operation.name} has a device")
        bound = operation.type.startswith(_BOUND) or reads_replica_number(operation)
        if bound or calls_unknown(operation):
            raise NotShared(f"{operation.name} is a {operation.type}")


def _of_replicas(capture: Any, local: int) -> list[Any]:
    """Return what stands for a capture on each replica: its variable's copies, or itself alone.

    Raises:
        NotShared: It is a tensor of one replica's graph, or another replica's copy.
    """
    if tf.is_symbolic_tensor(capture):
        raise NotShared(f"captures {capture.name}, which the replica has computed")
    copies = copies_beside(capture) if capture.dtype == tf.resource else None
    if copies is None:
        return [capture]
    if len(copies) != len(tf.distribute.get_strategy().extended.worker_devices) or copies[local] is not capture:
        raise NotShared("captures another replica's copy of a variable")
    return copies
