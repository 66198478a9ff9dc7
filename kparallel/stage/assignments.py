"""Calls layers without side effects: holds back what they assign."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.variables import assign_directly, is_initialized
from kparallel.errors import ModelError

__all__: list[str] = []

Values = Iterable[tuple[keras.Variable, tf.Tensor]]


class Assignments(keras.StatelessScope):  # type: ignore[misc]
    """Holds assignments back; what is read after one is what was assigned.

    Those of variables that it does not know are none of its: they are written.

    Nothing flows back through an assignment, as on one device. A weight's gradient is that of all that was read of it,
    before and after.

    Args:
        weights: Trainable variables and their values.
        state: The other variables and their values; those of other shapes, which Keras's class refuses, hold some rows.
    """

    def __init__(self, weights: Values, state: Values) -> None:
        weights = list(weights)
        super().__init__(state_mapping=weights, collect_losses=True)
        self.state_mapping |= {id(variable): value for variable, value in state}
        self._known = set(self.state_mapping)
        self._weights = {id(variable): value for variable, value in weights}

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        if id(variable) not in self._known:
            if is_initialized(variable):
                assign_directly(variable, value)
            else:  # One that the call makes, which Keras initializes behind it, or cannot.
                super().add_update(update)
            return
        before = self._weights.get(id(variable))
        value = tf.stop_gradient(value)
        super().add_update((variable, value if before is None else _replaced(before, value)))

    def changed(self, variables: Sequence[keras.Variable], before: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
        """Return what was assigned to each variable, None where it has its value from before.

        Raises:
            ModelError: It was assigned in a loop or a branch, whose values are not had outside.
        """
        values = [self.get_current_value(variable) for variable in variables]
        for variable, last in zip(variables, values, strict=True):
            if not _is_here(last):
                raise ModelError(
                    f"Expected variables to be assigned outside the loops and branches of a layer's call, received "
                    f"{variable.path!r}, which is assigned inside one, as by a recurrent layer's cell that draws "
                    "random numbers or counts. Draw for all steps before the loop, or say unroll=True."
                )
        return [
            last if tf.is_tensor(last) and last is not first else None
            for last, first in zip(values, before, strict=True)
        ]


def _is_here(value: Any) -> bool:
    """Tell whether a tensor is of the present graph, or of one around it."""
    if tf.executing_eagerly() or not tf.is_tensor(value) or isinstance(value, tf.__internal__.EagerTensor):
        return True
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not value.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _replaced(before: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return a weight's new value, of which gradients are the weight's."""
    return tf.identity(value), lambda upstream: (upstream, None)
