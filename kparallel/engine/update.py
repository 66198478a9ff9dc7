"""The optimizer's update of large stages as XLA programs.

Keras writes an update as several operations for each weight (momentum: two products, a difference, two sums), each of
which reads and writes whole tensors. XLA makes one pass over memory of them. Compiling takes a moment,
so that small stages are updated as Keras wrote it.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kparallel.private import updates_through

__all__: list[str] = []

# Weights in one stage from which on compiling pays: below it an update takes less than two milliseconds uncompiled.
LARGE = 2**20

Update = Callable[[list[tuple[Any, Any]], Any], None]


class Updater:
    """Applies an optimizer, each large stage's weights in XLA programs of about a million weights.

    Args:
        optimizer: The compiled optimizer.
        jit: True compiles every stage's update, False none, None the large ones.
    """

    def __init__(self, optimizer: Any, jit: bool | None) -> None:
        self._optimizer = optimizer
        own = getattr(optimizer, "inner_optimizer", optimizer)
        # An optimizer of the user's own may do what XLA cannot, such as print.
        known = getattr(keras.optimizers, type(own).__name__, None) is type(own)
        self._least = None if jit is False or not known else 0 if jit else LARGE
        self._programs: dict[tuple[Any, ...], Any] = {}

    def apply(self, gradients: list[Any], variables: list[keras.Variable]) -> None:
        """Apply summed gradients to this replica's copies of the variables; call it in the replica's context."""
        if self._least is None:
            self._optimizer.apply(gradients, variables)
            return
        with updates_through(self._optimizer, self._run):
            self._optimizer.apply(gradients, variables)

    def _run(self, update: Update, pairs: list[tuple[Any, Any]], rate: Any) -> None:
        """Update each device's variables in programs, or as Keras does it where they are few."""
        groups: dict[str, list[tuple[Any, Any]]] = {}
        for gradient, variable in pairs:
            groups.setdefault(variable.device, []).append((gradient, variable))
        for device, group in groups.items():
            dense = all(isinstance(gradient, tf.Tensor) for gradient, _ in group)
            if dense and _size(group) >= (self._least or 0):
                for part in _parts(group):
                    self._compiled(device, update, part, rate)
            else:
                update(group, rate)

    def _compiled(self, device: str, update: Update, group: list[tuple[Any, Any]], rate: Any) -> None:
        # Scalars, such as the count of steps, live with one stage; another stage's program gets their values.
        own = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        scalars = [variable for variable in own.variables if len(variable.shape) == 0]
        variables = [variable for _, variable in group]
        key = (device, *(id(variable) for variable in variables))
        if key not in self._programs:

            def program(gradients: list[tf.Tensor], rate: tf.Tensor, values: list[tf.Tensor]) -> None:
                with keras.StatelessScope(state_mapping=list(zip(scalars, values, strict=True))):
                    update(list(zip(gradients, variables, strict=True)), rate)

            self._programs[key] = tf.function(program, jit_compile=True, autograph=False)
        values = [tf.identity(variable.value) for variable in scalars]
        with tf.device(device):
            self._programs[key]([gradient for gradient, _ in group], tf.convert_to_tensor(rate), values)


def _size(pairs: list[tuple[Any, Any]]) -> int:
    return sum(int(variable.shape.num_elements()) for _, variable in pairs)


def _parts(pairs: list[tuple[Any, Any]]) -> list[list[tuple[Any, Any]]]:
    """Divide large stages, so that weights whose gradients are there are updated while the others still travel."""
    parts: list[list[tuple[Any, Any]]] = [[]]
    for pair in pairs:
        if parts[-1] and _size(parts[-1]) >= LARGE:
            parts.append([])
        parts[-1].append(pair)
    return parts
