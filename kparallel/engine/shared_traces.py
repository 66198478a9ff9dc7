"""The traces of a stage's function: one for all replicas where it is pure, else one for each device.

```text
                 on CPU:0             on CPU:1
a pure stage     one trace ◄───────── the same
any other        a trace              a trace       it draws by tf.random, names a device, or takes part in a collective
```
"""

import weakref
from typing import Any

from kparallel.compat.functions import without_devices
from kparallel.engine.shared_function import is_pure

__all__: list[str] = []


class SharedTraces:
    """Finds the trace of a function for its arguments.

    Args:
        function: A `tf.function`.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._pure: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()  # By the traced graph.

    def of(self, arguments: tuple[Any, ...]) -> Any:
        """Return the concrete function for some arguments, in a replica's context or in none.

        Args:
            arguments: Of the function.
        """
        with without_devices():
            function = self._function.get_concrete_function(*arguments)
        if function.graph not in self._pure:
            self._pure[function.graph] = is_pure(function)
        return function if self._pure[function.graph] else self._function.get_concrete_function(*arguments)
