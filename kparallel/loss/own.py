"""A subclass's own `compute_loss`, called so that what cannot be differentiated or added up is refused by name."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.errors import ModelError
from kparallel.metric.additive import refuse_updates
from kparallel.private import one_replica_view, own_metrics

__all__: list[str] = []


def overrides_compute_loss(model: keras.Model) -> bool:
    """Tell whether a model's class, or a function that was assigned to the model, computes its loss."""
    return getattr(model.compute_loss, "__func__", None) is not keras.Model.compute_loss


class _Recorder(keras.StatelessScope):  # type: ignore[misc]
    """Holds assignments back and notes which variables are read."""

    def __init__(self, state: list[tuple[keras.Variable, Any]]) -> None:
        super().__init__(state_mapping=state)
        self.read: dict[int, keras.Variable] = {}

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.read[id(variable)] = variable
        return super().get_current_value(variable)


def own_loss(model: Any, arguments: list[Any], training: bool, whole_batch: bool) -> Any:
    """Call a model's own `compute_loss`.

    Args:
        model: The model.
        arguments: x, y, outputs and sample weights.
        training: As Keras means it.
        whole_batch: Whether the arguments hold all replicas' rows; metrics may then be updated.

    Returns:
        The loss, a function of the outputs alone.

    Raises:
        ModelError: It reads weights, whose gradient would be lost, or updates a metric with some rows of the batch.
    """
    extra = {"training": training} if model._compute_loss_has_training_arg else {}
    metrics = own_metrics([model])
    # This replica's copies, read here: in the view of one replica there is only the first.
    state = [(v, tf.identity(v.value)) for metric in metrics for v in metric.variables] if whole_batch else []
    weights = [(variable, variable.value) for variable in model.trainable_variables]
    with _Recorder([*weights, *state]) as scope, one_replica_view():
        value = model.compute_loss(*arguments, **extra)
    read = [variable.path for variable in model.trainable_variables if id(variable) in scope.read]
    if read:
        raise ModelError(
            f"Expected {model.__class__.__name__}.compute_loss to depend on the outputs alone, but it reads the "
            f"weights {read[:4]}, by calling a layer or through a regularizer in super().compute_loss. Pass the loss "
            "to compile instead and leave compute_loss alone: regularizers and add_loss are then counted; or return "
            "what it needs as one more output."
        )
    if not whole_batch:
        way_out = 'Update it in compute_metrics, or pass loss_reduction="global" to kparallel.wrap.'
        refuse_updates(metrics, scope, "compute_loss", way_out)
    for variable, old in state:
        new = scope.state_mapping[id(variable)]
        if new is not old:
            variable.assign(new)
    return value


def refuse_added(model: Any, added: list[Any]) -> None:
    """Make sure that a model with its own `compute_loss` adds no losses, which that may count or not.

    Raises:
        ModelError: It does.
    """
    if added and overrides_compute_loss(model):
        raise ModelError(
            f"{model.__class__.__name__} overrides compute_loss and has layers that call add_loss or regularize "
            "their activity. Pass the loss to compile instead and leave compute_loss alone: both are then counted."
        )
