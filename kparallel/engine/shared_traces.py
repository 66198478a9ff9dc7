"""The traces of a stage's function: one for all replicas where it is pure, else one for each device.

```text
                 on CPU:0             on CPU:1
a pure stage     one trace ◄───────── the same
any other        a trace              a trace       it draws by tf.random, names a device, or takes part in a collective
```
"""

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import traced, without_devices
from kparallel.engine.shared_function import is_pure

__all__: list[str] = []


class SharedTraces:
    """Finds the trace of a function for its arguments.

    What replicas share, they share within one step's graph: a function may read attributes of layers while it is
    traced, and a graph for another number of rows is traced later.

    Args:
        function: Python that autograph leaves as it is.
        jit: Whether to compile it with XLA.
    """

    def __init__(self, function: Callable[..., Any], jit: bool) -> None:
        self._python = function
        self._jit = jit or None
        self._function = self._traced()
        # By the graph of the step and the kinds of the arguments; None for a function that is not pure.
        self._shared: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

    def of(self, arguments: tuple[Any, ...]) -> Any:
        """Return the concrete function for some arguments.

        Args:
            arguments: Of the function: tensors, and structures of them.
        """
        if tf.executing_eagerly():
            return self._function.get_concrete_function(*arguments)
        of_graph = self._shared.setdefault(tf.compat.v1.get_default_graph(), {})
        key = _kind(arguments)
        if key not in of_graph:
            # TensorFlow's own cache has an entry for each device, and for each thread that runs a replica.
            with without_devices():
                function = self._traced().get_concrete_function(*arguments)
            of_graph[key] = function if is_pure(function) else None
        return of_graph[key] or self._function.get_concrete_function(*arguments)

    def _traced(self) -> Any:
        return traced(self._python, jit_compile=self._jit)


def _kind(value: Any) -> Any:
    """Return what of an argument distinguishes traces."""
    if isinstance(value, tf.Tensor):
        return value.dtype, None if value.shape.rank is None else tuple(value.shape)
    if isinstance(value, dict):
        return tuple((name, _kind(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_kind, value))
    return value if value is None or isinstance(value, int) else tf.type_spec_from_value(value)
