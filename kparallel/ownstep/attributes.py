"""Finds what a step keeps in Python: a counter or a flag that changes whenever the step is traced.

```text
if not self.started:        plain Keras   one trace: the branch is in the graph, and runs at every step
    self.started = True     kparallel     one to build the model, one for each replica: it is in the first alone
```
"""

from typing import Any

import keras

__all__: list[str] = []


class Attributes:
    """The numbers, flags and names that are attributes of a model, but for Keras's own."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._known = set(vars(keras.Model()))
        self._before = self._now()

    def changed(self, kinds: tuple[type, ...] = (bool, int, float, str)) -> list[str]:
        """Return the names of those that have changed since the last call, and now are of one of some types."""
        now = self._now()
        before, self._before = self._before, now
        return [name for name, value in now.items() if type(value) in kinds and (name, value) not in before.items()]

    def _now(self) -> dict[str, Any]:
        simple = (bool, int, float, str, type(None))
        found = {name: value for name, value in vars(self._model).items() if type(value) in simple}
        # TensorFlow keeps what it tracks under names of the prefix.
        return {name: v for name, v in found.items() if name not in self._known and not name.startswith("_self_")}
