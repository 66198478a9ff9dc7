"""Calls layers without side effects: assignments are recorded instead of written."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.variables import assign_directly, is_initialized
from kparallel.errors import ModelError

__all__: list[str] = []

Values = Iterable[tuple[keras.Variable, tf.Tensor]]


class Assignments(keras.StatelessScope):  # type: ignore[misc]
    """Records the assignments to known variables. A variable that is read after an assignment has the assigned value.

    Assignments to unknown variables are written at once.

    As on one device, no gradient flows through an assignment. The gradient of a weight is the sum over all of its
    reads, before and after an assignment.

    Args:
        weights: Trainable variables and their values.
        state: The other variables and their values.
    """

    def __init__(self, weights: Values, state: Values) -> None:
        weights = list(weights)
        super().__init__(state_mapping=weights, collect_losses=True)
        # Entered afterwards, because Keras's constructor refuses a value whose shape is not the variable's. The state
        # of a stateful recurrent layer comes with the rows of one microbatch only.
        self.state_mapping |= {id(variable): value for variable, value in state}
        self._known = set(self.state_mapping)
        self._weights = {id(variable): value for variable, value in weights}

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        if id(variable) not in self._known:
            if is_initialized(variable):
                assign_directly(variable, value)
            else:  # Made during this call. Keras initializes it when the scope ends, or raises.
                super().add_update(update)
            return
        # Keras reads the value from the scope from now on. A read of a weight has to stay connected to its gradient.
        before = self._weights.get(id(variable))
        value = tf.stop_gradient(value)
        super().add_update((variable, value if before is None else _replaced(before, value)))

    def changed(self, variables: Sequence[keras.Variable], before: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
        """Return the value assigned to each variable, None for a variable that keeps its value.

        Args:
            variables: Known variables.
            before: Their values before the call.

        Raises:
            ModelError: A variable was assigned in a loop or a branch, whose tensors cannot be read outside of it.
        """
        values = [self.get_current_value(variable) for variable in variables]
        for variable, new in zip(variables, values, strict=True):
            if not _is_here(new):
                raise ModelError(
                    f"Expected variables to be assigned outside the loops and branches of a layer's call, received "
                    f"{variable.path!r}, which is assigned inside one, as by a recurrent layer's cell that draws "
                    "random numbers or counts. Draw for all steps before the loop, or say unroll=True."
                )
        return [new if tf.is_tensor(new) and new is not old else None for new, old in zip(values, before, strict=True)]


def _is_here(value: Any) -> bool:
    """Return whether a tensor belongs to the current graph, or to one around it."""
    if tf.executing_eagerly() or not tf.is_tensor(value) or isinstance(value, tf.__internal__.EagerTensor):
        return True
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not value.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _replaced(before: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return the new value of a weight; the gradient of a read goes to the weight's old value."""
    # The old value is the tensor that the tape watches.
    return tf.identity(value), lambda upstream: (upstream, None)
