"""The optimizer's update as one function: traced once, called by each replica and for batches of every size.

An update is most of the operations of a step: Keras writes some 40 for each weight. It is made of the summed gradients,
whose shapes are the weights', and of variables. So neither the replica nor the number of rows changes it.

```text
                 batch of 64                        last batch of 40
replica 0        trace ─► update(g, copies 0)       update(g, copies 0)
replica 1                 update(g, copies 1)       update(g, copies 1)
```
"""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import updates_without_devices
from kparallel.compat.functions import traced, unoptimized_calls
from kparallel.compat.optimizers import optimizers_in
from kparallel.engine.packed_gradient import PackedGradient
from kparallel.engine.python_state import PythonState
from kparallel.engine.shared_function import SharedFunction

__all__: list[str] = []


class UpdateFunction:
    """Calls an update as a function that the replicas of this process share.

    Code that is not Keras's own may look at anything while it is traced. An update with such code is shared by the
    replicas, but traced for each graph, as plain Keras does.

    Args:
        optimizer: The compiled optimizer.
        update: Applies it to gradients and variables, by operations of the present graph.
    """

    def __init__(self, optimizer: Any, update: Callable[[list[Any], list[keras.Variable]], None]) -> None:
        self._optimizer = optimizer
        self._update = update
        self._functions: dict[Any, SharedFunction] = {}
        self._kept: list[Any] = []  # What keys name by identity.
        self._is_shared = True

    def apply(self, gradients: list[Any], variables: list[keras.Variable], device: str) -> bool:
        """Update a replica's copies. Call it in the replica's context, while its graph is traced.

        Args:
            gradients: Of each variable: a tensor, slices, or None.
            variables: The weights, which lie on the device with their slots.
            device: The device.

        Returns:
            Whether the copies are updated. They are not if the function would not do the same on another replica.
        """
        packed = [PackedGradient(gradient) for gradient in gradients]
        function = self._function(packed, variables) if self._is_shared else None
        if function is None:
            return False
        with tf.device(device), unoptimized_calls():
            function(*(tensor for each in packed for tensor in each.tensors))
        return True

    def _function(self, packed: list[PackedGradient], variables: list[keras.Variable]) -> SharedFunction | None:
        state = self._state(variables)
        # Code of the user's own is traced for each graph, so the graph is part of the key, weakly: it must not be kept
        # alive.
        graph = None if state.is_keras_own else weakref.ref(tf.compat.v1.get_default_graph())
        key = (tuple(each.key for each in packed), tuple(map(id, variables)), state, graph)
        if key not in self._functions:
            if graph is not None:
                self._functions.clear()
            try:
                function = SharedFunction(self._traced(packed, variables))
            except Exception:  # An error of the user's comes again, from the operations of the step's own graph.
                function = None
            # A trace that changes what it reads in Python, as a counter, would read something else the next time.
            if function is None or self._state(variables) != state:
                self._is_shared = False
                return None
            self._functions[key] = function
            self._kept.append(variables)
        return self._functions[key]

    def _traced(self, packed: list[PackedGradient], variables: list[keras.Variable]) -> Any:
        def update(*tensors: tf.Tensor) -> None:
            remaining = iter(tensors)
            gradients = [each.unpacked(remaining) for each in packed]
            # `kparallel.trace` recognizes the operations by this name.
            with tf.name_scope("update_function"), updates_without_devices(tf.distribute.get_strategy()):
                self._update(gradients, variables)

        # Not inlined: TensorFlow would optimize the operations of each call anew.
        function = traced(update, experimental_attributes={"_noinline": True})
        with tf.device(None):  # Past the device functions of the step's own graph.
            return function.get_concrete_function(*(spec for each in packed for spec in each.specs))

    def _state(self, variables: list[keras.Variable]) -> PythonState:
        constraints = [variable.constraint for variable in variables if isinstance(variable, keras.Variable)]
        return PythonState([*optimizers_in(self._optimizer), *constraints])
