"""Calls an overridden `compute_loss` without side effects, and refuses what it reads or assigns but may not."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import one_replica_view
from kparallel.compat.layers import own_metrics
from kparallel.compat.losses import loss_trackers
from kparallel.compat.variables import variable_of_workers
from kparallel.errors import ModelError

__all__: list[str] = []


class NotOfOutputsError(ModelError):
    """A loss cannot be computed from the model's outputs alone. Nothing was changed."""


def overrides_compute_loss(model: keras.Model) -> bool:
    """Return whether `compute_loss` is overridden, by the model's class or by an assignment to the model."""
    # `__func__` is the plain function behind a bound method. A function that was assigned to the model has none.
    return getattr(model.compute_loss, "__func__", None) is not keras.Model.compute_loss


class _Recorder(keras.StatelessScope):  # type: ignore[misc]
    """Records assignments instead of writing them, and which variables are read and assigned."""

    def __init__(self, state: list[tuple[keras.Variable, Any]]) -> None:
        super().__init__(state_mapping=state)
        self.read: dict[int, keras.Variable] = {}
        self.assigned: dict[int, keras.Variable] = {}

    def get_current_value(self, variable: keras.Variable) -> Any:
        # Keras asks the scope for each read of a variable, and tells it each assignment.
        self.read[id(variable)] = variable
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        self.assigned[id(update[0])] = update[0]
        super().add_update(update)


def own_loss(
    model: Any, arguments: list[Any], training: bool, state: list[tuple[keras.Variable, Any]]
) -> tuple[Any, list[Any], set[int]]:
    """Call an overridden `compute_loss`.

    Args:
        model: The model.
        arguments: x, y, outputs and sample weights.
        training: Keras's `training` argument.
        state: The variables of `own_variables` with their values on this replica.

    Returns:
        The loss, which depends on the outputs only; the new value of each variable of `state`, None where it does not
        change; and the ids of the variables that were read or assigned.

    Raises:
        NotOfOutputsError: The method reads weights, whose gradients would be lost, or logs several losses.
        ModelError: It assigns a variable that is no state of the model.
    """
    # Keras looks when the model is made, so what is assigned to the model later does not count.
    takes_training = "training" in inspect.signature(type(model).compute_loss).parameters
    extra = {"training": training} if takes_training else {}
    # Weights are in the scope too, so that reads of them are recorded.
    weights = [(variable, _value(variable)) for variable in model.trainable_variables]
    # Inside, Keras's losses divide by the number of replicas that they see. With a view of one replica they leave the
    # sum over the replicas to the denominators.
    with _Recorder([*weights, *state]) as scope, one_replica_view():
        value = model.compute_loss(*arguments, **extra)
    read = [variable.path for variable in model.trainable_variables if id(variable) in scope.read]
    if read:
        raise NotOfOutputsError(
            f"Expected {model.__class__.__name__}.compute_loss to depend on the outputs alone under stages or "
            f"microbatches, but it reads the weights {read[:4]}, by calling a layer or through a "
            "regularizer in super().compute_loss. Say replicas= alone; or pass the loss to compile and leave "
            "compute_loss alone: regularizers and add_loss are then counted; or return what it needs as one more "
            "output."
        )
    _refuse_foreign(model, [variable for variable, _ in state], scope)
    # An unchanged variable still has the very tensor with which the scope began.
    ends = [(scope.state_mapping[id(variable)], old) for variable, old in state]
    return value, [None if new is old else new for new, old in ends], {*scope.read, *scope.assigned}


def _value(weight: keras.Variable) -> Any:
    """Return the value of a weight, zeros where another worker may hold it: whatever reads one is refused."""
    return weight.value if variable_of_workers(weight) is None else tf.zeros(weight.shape, weight.dtype)


def _refuse_foreign(model: Any, state: list[keras.Variable], scope: _Recorder) -> None:
    known = set(map(id, state))
    # A tracker's mean over this part is no part of the mean over the batch, unless its weight is known too.
    means = {id(variable) for tracker in loss_trackers(model) for variable in tracker.variables}
    if means & scope.assigned.keys():
        raise NotOfOutputsError(
            f"Expected {model.__class__.__name__}.compute_loss to compute one number under stages or "
            "microbatches, but super().compute_loss logs the mean of each of several losses too. Say replicas= "
            "alone; or pass the losses to compile and leave compute_loss alone."
        )
    foreign = [variable.path for key, variable in scope.assigned.items() if key not in known]
    if foreign:
        raise ModelError(
            f"Expected {model.__class__.__name__}.compute_loss to assign metrics and non-trainable variables of the "
            f"model alone, but it assigns {foreign[:4]}. Make such a variable with add_weight(trainable=False)."
        )


def own_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables that `compute_loss` may change: the non-trainable ones, and those of the model's metrics."""
    non_trainable = [variable for variable in model.variables if not variable.trainable]
    metrics = [variable for metric in own_metrics([model]) for variable in metric.variables]
    return list({id(variable): variable for variable in [*metrics, *non_trainable]}.values())


def own_state(model: keras.Model) -> list[tuple[keras.Variable, tf.Tensor]]:
    """Return `own_variables` with their values on this replica.

    Call it outside of `one_replica_view`, inside which only the first replica's copy can be read.
    """
    return [(variable, tf.identity(variable.value)) for variable in own_variables(model)]


def refuse_added(model: Any, added: list[Any]) -> None:
    """Refuse a model that overrides `compute_loss` and calls `add_loss`: whether the override counts them is unknown.

    Raises:
        NotOfOutputsError: The model does both.
    """
    if added and overrides_compute_loss(model):
        raise NotOfOutputsError(
            f"{model.__class__.__name__} overrides compute_loss and has layers that call add_loss or regularize "
            "their activity, which stages and microbatches do not hand to it. Say replicas= "
            "alone; or pass the loss to compile and leave compute_loss alone: both are then counted."
        )
