"""Rebuild an optimizer where its model's variables live."""

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


def rebuild_optimizer(optimizer: Any) -> Any:
    """Return a fresh optimizer of the same class and settings, made in the present strategy scope.

    Args:
        optimizer: A name, a config or a Keras optimizer; its state stays behind (see `copy_state`).

    Returns:
        The new optimizer, without slots.

    Raises:
        ModelError: The optimizer cannot be rebuilt from its config.
    """
    if optimizer is None or isinstance(optimizer, (str, dict)):
        return optimizer
    try:
        with trust_own_code():
            config = optimizer.get_config()
            rate = getattr(optimizer, "_learning_rate", None)
            own_rate = callable(rate) and not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
            own_rate = own_rate and not isinstance(rate, keras.Variable)
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
    """Build the target's slots and copy the source's state into them."""
    if source is None or target is None or not source.built:
        return
    if not target.built:
        target.build(variables)
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(read_variable(old))
