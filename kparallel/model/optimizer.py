"""Rebuild an optimizer where its model's variables live."""

from contextlib import AbstractContextManager
from typing import Any

import keras

from kparallel.errors import ModelError
from kparallel.private import (
    expect_summed_gradients,
    read_as_number,
    read_variable,
    trust_own_code,
    weight_decay_exclusions,
)

__all__: list[str] = []


def rebuild_optimizer(optimizer: Any, scope: AbstractContextManager[None]) -> Any:
    """Return a fresh optimizer of the same class and settings, made in a scope.

    Args:
        optimizer: A name, a config or a Keras optimizer; its state stays behind (see `copy_state`).
        scope: Where the new one's variables are made.

    Returns:
        The new optimizer, without slots.

    Raises:
        ModelError: The optimizer cannot be rebuilt from its config.
    """
    if optimizer is None or isinstance(optimizer, (str, dict)):
        return optimizer
    try:
        with trust_own_code():
            config = optimizer.get_config()  # Outside the scope: the optimizer may live in another strategy's.
            rate = getattr(optimizer, "_learning_rate", None)
            own_rate = callable(rate) and not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
            own_rate = own_rate and not isinstance(rate, keras.Variable)
            with scope:
                fresh = type(optimizer).from_config(config | {"learning_rate": 0.0} if own_rate else config)
                if own_rate:
                    fresh.learning_rate = rate
    except Exception as error:
        raise ModelError(
            f"Expected an optimizer that from_config(get_config()) rebuilds, received {type(optimizer).__name__}. "
            "Give it a get_config that holds its constructor's arguments."
        ) from error
    weight_decay_exclusions(optimizer, fresh)
    return fresh


def adopt(optimizer: Any) -> None:
    """Make an optimizer take gradients that are summed already, and its scalars readable as Python numbers."""
    if optimizer is not None:
        expect_summed_gradients(optimizer)
        for variable in optimizer.variables:
            read_as_number(variable)


def copy_state(source: Any, target: Any, variables: list[keras.Variable]) -> None:
    """Build the target's slots and copy the source's state into them.

    Raises:
        ModelError: The source's slots belong to other variables.
    """
    if source is None or target is None or not source.built:
        return
    if not target.built:
        target.build(variables)
    if isinstance(target, keras.optimizers.LossScaleOptimizer) and not isinstance(source, type(target)):
        target = target.inner_optimizer
    check_slots(source, target)
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(read_variable(old))


def check_slots(source: Any, target: Any) -> None:
    """Make sure that two optimizers hold the same variables.

    Raises:
        ModelError: They do not.
    """
    shapes = [[tuple(variable.shape) for variable in each.variables] for each in (source, target)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"Expected an optimizer without slots or with slots for this model, {shapes[1][:6]}, received one whose "
            f"slots belong to another model, {shapes[0][:6]}. Pass a fresh optimizer to compile."
        )
