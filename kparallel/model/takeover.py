"""Moves a model's variables to the columns of its plan, and back.

The Keras variables stay the same objects; only the TensorFlow variables inside them are exchanged. So every reference
that a user has stays valid: another model that shares layers, the optimizer, a metric.
"""

import gc
from collections.abc import Iterator
from typing import Any

import keras

from kparallel.compat.training import renew_functions
from kparallel.compat.variables import (
    empty_former,
    foreign_strategy,
    gather_variable,
    is_placed,
    place_variable,
    placed_value,
    restore_variable,
    variable_of_workers,
)
from kparallel.errors import ModelError
from kparallel.model.columns import columns_of
from kparallel.model.runtime import Runtime
from kparallel.model_variables import variables_of

__all__: list[str] = []


def check_variables(model: keras.Model, runtime: Runtime, former: Runtime | None = None) -> None:
    """Check that all variables of a model can be moved to the devices of a plan.

    Args:
        model: The model, before it is moved.
        runtime: The runtime with the plan.
        former: The runtime with which the model is wrapped so far, or None.

    Raises:
        ModelError: A variable belongs to a strategy of the user's, or to another wrapped model on other devices.
    """
    for variable, column, single, owner in columns_of(model, runtime):
        strategy = foreign_strategy(variable)
        if strategy is not None and strategy is not runtime.strategy:
            raise ModelError(
                f"Expected variables that no strategy holds, received {variable.path!r} of {model.name!r}, which was "
                f"made under {type(strategy).__name__}. Build the model outside `strategy.scope()`: kparallel makes a "
                "strategy of its own."
            )
        if is_placed(variable, runtime.strategy, column, single, owner):
            continue
        _check_together(variable, former)
        if not _others(variable, former):
            continue
        # `owners` is a set of weak references; a cycle keeps an entry alive until it is collected.
        gc.collect()  # Models are in reference cycles: a model that is no longer reachable may still own the variable.
        others = _others(variable, former)
        if others:
            raise ModelError(
                f"Expected the devices of the model {others[0].plan.model_name!r}, which is wrapped and holds "
                f"{variable.path!r} as well, received a plan for {model.name!r} that puts it elsewhere. Wrap both with "
                "replicas and stages that give this layer the same devices and without shard='weights', by which each "
                "model chooses owners of its own, or unwrap the other one first."
            )


def take_over(model: keras.Model, runtime: Runtime) -> bool:
    """Move every variable of a model that is not on its plan's devices yet.

    The first call moves all variables. Later calls move those that were made since: slots, metrics, new layers.

    Args:
        model: The plain model, or a model that is wrapped with this runtime.
        runtime: The runtime with the plan.

    Returns:
        Whether a variable was moved.

    Raises:
        ModelError: As in `check_variables`. After any error all variables are where they were.
    """
    if all(_holds(runtime, variable) for variable in _variables(model)) and _owners_are_right(model, runtime):
        return False
    # A model that is wrapped anew has variables that its former runtime owns; they are handed over.
    former = vars(model).get("_kparallel")
    check_variables(model, runtime, former)
    moved: list[tuple[keras.Variable, Any]] = []
    try:
        for variable, column, single, owner in columns_of(model, runtime):
            old = place_variable(variable, runtime.strategy, column, single, owner)
            if old is not None:
                moved.append((variable, old))
    except BaseException:  # KeyboardInterrupt too: a half-moved model would be of no use.
        for variable, old in reversed(moved):
            restore_variable(variable, old)
        raise
    for _, old in moved:
        empty_former(old)
    for variable in _variables(model):
        placed = placed_value(variable)
        if placed is not None:
            if former is not None:
                placed.owners.discard(former)
            # Weakly, see `PlacedVariable`: a wrapped model that is gone owns nothing.
            placed.owners.add(runtime)
    _renew_functions_of_others(model, [variable for variable, _ in moved])
    return bool(moved)


def give_back(model: keras.Model, runtime: Runtime) -> None:
    """Move every variable of a model back to one device, except those that another wrapped model uses too."""
    device = runtime.placement.rows[0][0]
    for variable in _variables(model):  # Before the first one moves.
        _check_together(variable, runtime)
    moved = []
    for variable in _variables(model):
        placed = placed_value(variable)
        if placed is None:
            continue
        placed.owners.discard(runtime)
        # A layer that another wrapped model shares stays where that model needs it.
        if not placed.owners:
            gather_variable(variable, device)
            moved.append(variable)
    _renew_functions_of_others(model, moved)


def _check_together(variable: keras.Variable, runtime: Runtime | None) -> None:
    """Check that a variable can be moved: on every worker, or on none, since a move takes a collective.

    Raises:
        ModelError: The workers share it out, and it has its value on one worker alone.
    """
    apart = runtime is not None and runtime.shared_out is not None and runtime.shared_out.is_apart
    if apart and variable_of_workers(variable) is not None:
        raise ModelError(
            f"Expected {variable.path!r} on every worker to move it, received a variable that is on its owner's "
            "worker alone, as behind a loop of one's own or a step that has failed. Let all workers call "
            "kparallel.bring_together(model), fit or train_on_batch before, or load a checkpoint into a model that is "
            "built anew."
        )


def _variables(model: keras.Model) -> Iterator[keras.Variable]:
    """Yield each variable that a step may write, once: of layers, metrics and optimizers."""
    yield from variables_of(model)


def _holds(runtime: Runtime, variable: keras.Variable) -> bool:
    placed = placed_value(variable)
    return placed is not None and runtime in placed.owners


def _owners_are_right(model: keras.Model, runtime: Runtime) -> bool:
    """Tell whether slots lie with the owners of their weights, which may be others with another optimizer."""
    never = runtime.plan.shard is None and not runtime.shard_is_free
    return never or all(
        is_placed(variable, runtime.strategy, column, single, owner)
        for variable, column, single, owner in columns_of(model, runtime)
    )


def _others(variable: keras.Variable, former: Runtime | None) -> list[Runtime]:
    """Return the runtimes, other than `former`, that use a variable."""
    placed = placed_value(variable)
    return [] if placed is None else [owner for owner in placed.owners if owner is not former]


def _renew_functions_of_others(model: keras.Model, moved: list[keras.Variable]) -> None:
    """Discard the traced functions of every other Keras model that shares moved variables.

    Such functions would write to the first copy only, or read a variable that is no copy any more. A layer has no
    reference to the models that contain it, so these are found among all objects. Only models that have traced a
    function matter.
    """
    if not moved:
        return
    ids = set(map(id, moved))
    for other in gc.get_objects():
        # `type(other)` and not `isinstance`, which asks objects for a class that they may compute.
        has_traced = issubclass(type(other), keras.Model) and other is not model and _has_traced(other)
        if has_traced and any(id(variable) in ids for variable in _variables(other)):
            renew_functions(other)


def _has_traced(model: keras.Model) -> bool:
    names = ("train_function", "test_function", "predict_function")
    return any(vars(model).get(name) is not None for name in names)
