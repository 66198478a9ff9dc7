"""The optimizer's update of large stages as XLA programs.

Keras writes an update as several operations for each weight (momentum: two products, a difference, two sums), each of
which reads and writes whole tensors. XLA makes one pass over memory of them. Compiling takes a moment, so that small
stages are updated as Keras wrote it.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.compat.optimizers import optimizers_in, own_optimizer, updates_through, updating_copies
from kparallel.engine.shared_writes import refuse_shared_writes

__all__: list[str] = []

# Weights in one stage from which on compiling pays: below it an update takes less than two milliseconds uncompiled.
LARGE = 2**20

# Make some slots without naming their weight, so that these lie with the last stage, where no program reaches them.
_SLOTS_APART = (keras.optimizers.Adafactor,)

Update = Callable[[list[tuple[Any, Any]], Any], None]


class OptimizerUpdate:
    """Applies an optimizer, each large stage's weights in XLA programs of about a million weights.

    Args:
        optimizer: The compiled optimizer, or None where there is none.
        jit: True compiles every stage's update, False none, None the large ones.
    """

    def __init__(self, optimizer: Any, jit: bool | None) -> None:
        self._optimizer = optimizer
        self._own = own_optimizer(optimizer)
        # An optimizer of the user's own may do what XLA cannot, such as print.
        known = getattr(keras.optimizers, type(self._own).__name__, None) is type(self._own)
        self._least = None if jit is False or not known else 0 if jit else LARGE
        self._programs: dict[tuple[Any, ...], Any] = {}

    def apply(self, gradients: list[Any], variables: list[keras.Variable]) -> None:
        """Apply summed gradients to this replica's copies of the variables; call it in the replica's context."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with updating_copies(optimizers_in(self._optimizer)), refuse_shared_writes(replicas):
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
        # Scalars, such as the count of steps, live with one stage; another stage's programs get their values.
        scalars = [variable for variable in self._own.variables if len(variable.shape) == 0]
        for device, group in groups.items():
            if len(groups) > 1 and isinstance(self._own, _SLOTS_APART):
                update(group, rate)
                continue
            dense = [pair for pair in group if isinstance(pair[0], tf.Tensor)]
            if not dense or _size(dense) < (self._least or 0):
                update(group, rate)
                continue
            slices = [pair for pair in group if not isinstance(pair[0], tf.Tensor)]
            if slices:  # XLA knows none; an optimizer that looks at single ones gets them.
                update(slices, rate)
            values = [tf.identity(variable.value) for variable in scalars]
            for part in _parts(dense):
                gradients, variables = (list(each) for each in zip(*part, strict=True))
                program = self._program(device, update, variables, scalars)
                with tf.device(device):
                    program(gradients, tf.convert_to_tensor(rate), values)

    def _program(self, device: str, update: Update, variables: list[Any], scalars: list[keras.Variable]) -> Any:
        """Return the program that updates some variables, made once for all numbers of rows."""
        key = (device, *(id(variable) for variable in variables))
        if key not in self._programs:

            def program(gradients: list[tf.Tensor], rate: tf.Tensor, values: list[tf.Tensor]) -> None:
                with keras.StatelessScope(state_mapping=list(zip(scalars, values, strict=True))):
                    update(list(zip(gradients, variables, strict=True)), rate)

            self._programs[key] = traced(program, jit_compile=True)
        return self._programs[key]


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
