"""An optimizer's update as a function: traced once, called by each replica and for batches of every size.

An update is most of the operations of a step: Keras writes some 40 for each weight. It is made of the summed gradients,
whose shapes are the weights', and of variables. So neither the replica nor the number of rows changes it.

```text
                 batch of 64                        last batch of 40
replica 0        trace ─► update(g, copies 0)       update(g, copies 0)
replica 1                 update(g, copies 1)       update(g, copies 1)
```

Where a replica has one device, the function is all that the optimizer does. Where it has several, or each weight has an
owner, there is a function for the weights of each device, and what concerns all gradients together stays outside: a
function begins when all its arguments are there, and the last stage's update must not wait for the first stage's
gradients.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import updates_without_devices
from kparallel.compat.functions import traced, unoptimized_calls
from kparallel.compat.optimizers import optimizers_in
from kparallel.engine.packed_gradient import PackedGradient
from kparallel.engine.python_state import PythonState
from kparallel.engine.shared_function import callable_here

__all__: list[str] = []

# From gradients, their variables and more tensors.
Update = Callable[[list[Any], list[Any], list[tf.Tensor]], None]


class UpdateFunction:
    """Calls an update as a function that the replicas of this process share.

    Code that is not Keras's own may look at anything while it is traced. An update with such code is shared by the
    replicas, but traced for each graph, as plain Keras does.

    Args:
        optimizer: The compiled optimizer.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._functions: dict[Any, Any] = {}
        self._kept: list[Any] = []  # What keys name by identity.
        self._is_shared = True

    def apply(
        self,
        update: Update,
        gradients: list[Any],
        variables: list[Any],
        device: str,
        more: Sequence[tf.Tensor] = (),
    ) -> bool:
        """Update variables. Call it while a step's graph is traced.

        In a replica's context these are the replica's copies, and all replicas share the function. Elsewhere they are
        variables of their own.

        Args:
            update: Applies it to gradients and variables, by operations of the present graph. Each call of `apply` has
                to pass one that does the same.
            gradients: Of each variable: a tensor, slices, or None.
            variables: The weights, which lie on the device with their slots.
            device: The device.
            more: Tensors that the update takes beside the gradients.

        Returns:
            Whether the variables are updated. They are not if the function would not do the same on another replica.
        """
        packed = [PackedGradient(gradient) for gradient in gradients]
        packed += [PackedGradient(each) for each in more]
        function = self._function(update, packed, variables, device) if self._is_shared else None
        if function is None:
            return False
        with tf.device(device), unoptimized_calls():
            function(*(tensor for each in packed for tensor in each.tensors))
        return True

    def _function(
        self, update: Update, packed: list[PackedGradient], variables: list[Any], device: str
    ) -> Callable[..., Any] | None:
        state = self._state(variables)
        # Code of the user's own is traced for each graph, so the graph is part of the key, weakly: it must not be kept
        # alive.
        graph = None if state.is_keras_own else weakref.ref(tf.compat.v1.get_default_graph())
        owner = None if tf.distribute.has_strategy() else device
        key = (tuple(each.key for each in packed), tuple(map(id, variables)), state, graph, owner)
        if key not in self._functions:
            if graph is not None:
                self._functions = {k: each for k, each in self._functions.items() if k[3] in (None, graph)}
            try:
                function = callable_here(self._traced(update, packed, variables))
            except Exception:  # An error of the user's comes again, from the operations of the step's own graph.
                function = None
            # A trace that changes what it reads in Python, as a counter, would read something else the next time.
            if function is None or self._state(variables) != state:
                self._is_shared = False
                return None
            self._functions[key] = function
            self._kept.append(variables)
        found: Callable[..., Any] = self._functions[key]
        return found

    def _traced(self, update: Update, packed: list[PackedGradient], variables: list[Any]) -> Any:
        def body(*tensors: tf.Tensor) -> None:
            remaining = iter(tensors)
            arguments = [each.unpacked(remaining) for each in packed]
            gradients, more = arguments[: len(variables)], arguments[len(variables) :]
            # `kparallel.trace` recognizes the operations by this name.
            with tf.name_scope("update_function"), updates_without_devices(tf.distribute.get_strategy()):
                update(gradients, variables, more)

        # Not inlined: TensorFlow would optimize the operations of each call anew.
        function = traced(body, experimental_attributes={"_noinline": True})
        with tf.device(None):  # Past the device functions of the step's own graph.
            return function.get_concrete_function(*(spec for each in packed for spec in each.specs))

    def _state(self, variables: list[Any]) -> PythonState:
        constraints = [variable.constraint for variable in variables if isinstance(variable, keras.Variable)]
        return PythonState([*optimizers_in(self._optimizer), *constraints])
