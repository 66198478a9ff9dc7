"""The optimizer's update: that of each device's weights is a function, and of large stages XLA programs.

Keras writes an update as several operations for each weight (momentum: two products, a difference, two sums). Each of
them reads and writes whole tensors; XLA fuses them into one pass over memory. Compiling takes time, so small stages are
updated by Keras's own operations.

```text
Keras's apply     clipping, scaling ─► loop over the weights ─► averages, constraints
                                       │ of stage 0: a function, called by each replica
                                       └ of stage 1: XLA programs of its large weights, a function of the others
```
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import updates_without_devices
from kparallel.compat.functions import traced
from kparallel.compat.optimizers import optimizers_in, own_optimizer, slots_by_weight, step_count
from kparallel.compat.updates import updates_through, updating_copies, writing_anew
from kparallel.engine.python_state import PythonState
from kparallel.engine.shared_function import NotShared, SharedFunction
from kparallel.engine.shared_writes import refuse_shared_writes
from kparallel.engine.update_function import UpdateFunction

__all__: list[str] = []

# The number of weights of one stage from which compiling pays: below it an uncompiled update takes less than 2 ms.
LARGE = 2**20
# The size of a tensor from which it counts. A smaller one stays in the cache from one operation of its update to the
# next, and takes as long to compile, on each device, as a large one.
LARGE_TENSOR = 2**15

# Optimizers that create some slots without a reference variable. Such slots live on the last stage, out of reach of the
# other stages' programs.
_SLOTS_APART = (keras.optimizers.Adafactor,)

Update = Callable[[list[tuple[Any, Any]], Any], None]


class OptimizerUpdate:
    """Applies an optimizer; the weights of each large stage in XLA programs of about a million weights.

    Args:
        optimizer: The compiled optimizer, or None for a model without one.
        jit: True compiles every stage's update, False none, None the large ones.
    """

    def __init__(self, optimizer: Any, jit: bool | None) -> None:
        self._optimizer = optimizer
        self._own = own_optimizer(optimizer)
        # An optimizer of the user's own may do what XLA cannot, such as print.
        self._is_keras = getattr(keras.optimizers, type(self._own).__name__, None) is type(self._own)
        self._least = None if jit is False or not self._is_keras else 0 if jit else LARGE
        self._programs: dict[tuple[Any, ...], Any] = {}
        self._kept: list[list[Any]] = []  # The variables of the programs, which are known by identity.
        self._of_devices = UpdateFunction(optimizer)

    def apply(
        self,
        gradients: list[Any],
        variables: list[keras.Variable],
        inline: bool = False,
        copied: Sequence[keras.Variable] = (),
    ) -> None:
        """Apply summed gradients to this replica's copies of the variables. Call it in the replica's context.

        Args:
            gradients: Of each variable; None where there is none.
            variables: The weights.
            inline: Whether all operations belong to the present graph, but for XLA programs. Default False: the loop
                over the weights of each device is a function.
            copied: Weights whose new values other replicas take as they are. Each call has to name the same ones.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        run = partial(self._run, inline=inline or tf.executing_eagerly(), copied=copied)
        with updating_copies(optimizers_in(self._optimizer)), refuse_shared_writes(replicas):
            if not self._is_keras:
                self._optimizer.apply(gradients, variables)
                return
            # Keras clips, scales, accumulates and averages as always; only its loop over the variables is replaced.
            with updates_through(self._optimizer, run):
                self._optimizer.apply(gradients, variables)

    def apply_whole(self, gradients: list[Any], variables: list[keras.Variable], _: Sequence[tf.Tensor] = ()) -> None:
        """Apply summed gradients in the body of a function, as `UpdateFunction` takes it."""
        self.apply(gradients, variables, inline=True)

    def compiles(self, gradients: list[Any], variables: list[keras.Variable]) -> bool:
        """Tell whether `apply` makes XLA programs where these variables are all on one device."""
        return bool(self._large([pair for pair in zip(gradients, variables, strict=True) if pair[0] is not None]))

    def _run(
        self,
        loop: Update,
        pairs: list[tuple[Any, Any]],
        rate: Any,
        inline: bool,
        copied: Sequence[keras.Variable],
    ) -> None:
        """Update the variables of each device: by XLA programs, by a function, or by Keras's loop."""

        def update(some: list[tuple[Any, Any]], value: Any) -> None:
            with writing_anew(self._own, copied):
                loop(some, value)

        if inline and self._least is None:
            self._loop(update, pairs, rate)
            return
        # By device: a function runs on one device, and a stage's variables are all on one.
        groups: dict[str, list[tuple[Any, Any]]] = {}
        for gradient, variable in pairs:
            groups.setdefault(variable.device, []).append((gradient, variable))
        # Scalars, such as the count of steps, live with one stage; another stage's functions get their values. A slot
        # of a scalar weight lives with its weight, and is written.
        slots = {id(slot) for slot, _ in slots_by_weight(self._own)}
        scalars = [each for each in self._own.variables if len(each.shape) == 0 and id(each) not in slots]
        for device, group in groups.items():
            compiled, others = self._divided(group, len(groups) > 1)
            if others and (inline or not self._by_function(update, others, rate, device, scalars)):
                self._loop(update, others, rate)
            values = [tf.identity(variable.value) for variable in scalars] if compiled else []
            for part in _parts(compiled) if compiled else []:
                gradients, variables = (list(each) for each in zip(*part, strict=True))
                program = self.compiled_update(device, update, variables, scalars)
                program([*gradients, tf.convert_to_tensor(rate), *values])

    def _divided(
        self, group: list[tuple[Any, Any]], several: bool
    ) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
        """Divide the pairs of a device into those whose update is compiled and the others.

        Args:
            group: The pairs.
            several: Whether other devices have variables too.
        """
        large = [] if several and isinstance(self._own, _SLOTS_APART) else self._large(group)
        chosen = {id(variable) for _, variable in large}
        return large, [pair for pair in group if id(pair[1]) not in chosen]

    def _large(self, group: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Return the pairs of one device whose update is worth compiling."""
        if self._least is None:
            return []
        # XLA has no `tf.IndexedSlices`, and a dense gradient would update all rows, not only these.
        dense = [pair for pair in group if isinstance(pair[0], tf.Tensor)]
        large = [pair for pair in dense if not self._least or _size([pair]) >= LARGE_TENSOR]
        return large if _size(large) >= self._least else []

    def _by_function(
        self, update: Update, group: list[tuple[Any, Any]], rate: Any, device: str, scalars: list[keras.Variable]
    ) -> bool:
        """Update the variables of one device by a function that all replicas and sizes share; return whether it can."""

        def of_values(gradients: list[Any], variables: list[Any], more: list[tf.Tensor]) -> None:
            rate, *values = more
            with keras.StatelessScope(state_mapping=list(zip(scalars, values, strict=True))) as scope:
                given = {key: id(value) for key, value in scope.state_mapping.items()}
                update(list(zip(gradients, variables, strict=True)), rate)
            # What is assigned in the scope is held back in it.
            if given != {key: id(value) for key, value in scope.state_mapping.items()}:
                raise NotShared("assigns a scalar, which is an argument of the function")

        gradients, variables = (list(each) for each in zip(*group, strict=True))
        more = [tf.convert_to_tensor(rate), *(tf.identity(variable.value) for variable in scalars)]
        return self._of_devices.apply(of_values, gradients, variables, device, more)

    def _loop(self, update: Update, pairs: list[tuple[Any, Any]], rate: Any) -> None:
        """Update variables by Keras's loop, with the number of steps as one tensor.

        Keras reads it for each weight. TensorFlow then cannot tell that what follows from it, such as Adam's powers of
        the decay rates, is the same for all.
        """
        count = step_count(self._own)
        with keras.StatelessScope(state_mapping=[(count, tf.identity(count.value))]):
            update(pairs, rate)

    def compiled_update(
        self, device: str, update: Update, variables: list[Any], scalars: list[keras.Variable]
    ) -> Callable[[list[tf.Tensor]], None]:
        """Return the program that updates some variables, a function of their gradients, the rate and the scalars.

        It is traced once for all replicas of this process and all numbers of rows, and compiled for each device.

        Args:
            device: On which the variables live.
            update: Updates (gradient, variable) pairs at a learning rate.
            variables: These variables.
            scalars: Variables of other devices whose values the program takes as arguments.
        """
        count = len(variables)

        # The variables are captured, since they are updated in place. The scalars live on another device and are only
        # read: the scope lets Keras's code see the values that were passed.
        def program(*arguments: tf.Tensor) -> None:
            gradients, (rate, *values) = arguments[:count], arguments[count:]
            with (
                keras.StatelessScope(state_mapping=list(zip(scalars, values, strict=True))),
                updates_without_devices(tf.distribute.get_strategy()),
            ):
                update(list(zip(gradients, variables, strict=True)), rate)

        def run(arguments: list[tf.Tensor]) -> None:
            kinds = ((each.dtype, tuple(each.shape)) for each in arguments)
            key = (PythonState(optimizers_in(self._optimizer)), *map(id, variables), *kinds)
            function = self._programs.get(key) or self._programs.get((device, *key))
            if function is None:
                with tf.device(None):  # Past the device functions of the step's own graph.
                    function = traced(program, jit_compile=True).get_concrete_function(*arguments)
                try:
                    function = SharedFunction(function)
                    self._programs[key] = function
                except NotShared:
                    self._programs[(device, *key)] = function
                self._kept.append(variables)
            with tf.device(device):
                function(*arguments)

        return run


def _size(pairs: list[tuple[Any, Any]]) -> int:
    return sum(int(variable.shape.num_elements()) for _, variable in pairs)


def _parts(pairs: list[tuple[Any, Any]]) -> list[list[tuple[Any, Any]]]:
    """Divide the pairs of a large stage, so that the update of some weights overlaps the all-reduce of the others."""
    parts: list[list[tuple[Any, Any]]] = [[]]
    for pair in pairs:
        if parts[-1] and _size(parts[-1]) >= LARGE:
            parts.append([])
        parts[-1].append(pair)
    return parts
