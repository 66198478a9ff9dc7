"""Takes a model's variables over to the columns of its plan, and gives them back.

```text
                      column of stage 0    column of stage 1
        replica 0     kernel               kernel'  metrics  counters of the optimizer
        replica 1     kernel               kernel'  metrics  counters of the optimizer
```

A weight lies on the column of the stage that owns it, its slots beside it, all else on the last stage's column. Keras
variables stay the same objects; what they hold is exchanged. So every handle that a user keeps goes on working: another
model that shares layers, the optimizer, a metric.
"""

import gc
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from kparallel.compat.layers import flatten_layers, own_metrics, recurrent_states
from kparallel.compat.optimizers import optimizers_in, slots_by_weight
from kparallel.compat.training import renew_functions, trainer_metrics
from kparallel.compat.variables import (
    foreign_strategy,
    gather_variable,
    is_initialized,
    is_placed,
    place_variable,
    placed_value,
    restore_variable,
)
from kparallel.errors import ModelError
from kparallel.model.runtime import Runtime

__all__: list[str] = []

Column = tuple[str, ...]


def check_variables(model: keras.Model, runtime: Runtime, former: Runtime | None = None) -> None:
    """Make sure that all variables of a model may lie where a plan puts them.

    Args:
        model: Not moved yet.
        runtime: Has the plan.
        former: What the model is laid out by so far.

    Raises:
        ModelError: A strategy of the user's own holds a variable, or another wrapped model holds it elsewhere.
    """
    for variable, column in _columns(model, runtime):
        strategy = foreign_strategy(variable)
        if strategy is not None and strategy is not runtime.strategy:
            raise ModelError(
                f"Expected variables that no strategy holds, received {variable.path!r} of {model.name!r}, which was "
                f"made under {type(strategy).__name__}. Build the model outside `strategy.scope()`: kparallel makes a "
                "strategy of its own."
            )
        if is_placed(variable, runtime.strategy, column) or not _others(variable, former):
            continue
        gc.collect()  # Models lie in cycles of references: one that nobody holds any more may still be there.
        others = _others(variable, former)
        if others:
            raise ModelError(
                f"Expected the devices of the model {others[0].plan.model_name!r}, which is wrapped and holds "
                f"{variable.path!r} as well, received a plan for {model.name!r} that puts it elsewhere. Wrap both with "
                "replicas and stages that give this layer the same devices, or unwrap the other one first."
            )


def take_over(model: keras.Model, runtime: Runtime) -> bool:
    """RowRange each variable of a model that its plan does not hold yet: all at first, later what was made since.

    Args:
        model: Plain, or wrapped with this runtime.
        runtime: Has the plan.

    Returns:
        Whether a variable has moved.

    Raises:
        ModelError: As of `check_variables`. Whatever fails, no variable has moved.
    """
    if all(_holds(runtime, variable) for variable in _variables(model)):
        return False
    former = vars(model).get("_kparallel")
    check_variables(model, runtime, former)
    moved: list[tuple[keras.Variable, Any]] = []
    try:
        for variable, column in _columns(model, runtime):
            old = place_variable(variable, runtime.strategy, column)
            if old is not None:
                moved.append((variable, old))
    except BaseException:
        for variable, old in reversed(moved):
            restore_variable(variable, old)
        raise
    for variable in _variables(model):
        placed = placed_value(variable)
        if placed is not None:
            if former is not None:
                placed.owners.discard(former)
            placed.owners.add(runtime)
    _renew_functions_of_others(model, [variable for variable, _ in moved])
    return bool(moved)


def give_back(model: keras.Model, runtime: Runtime) -> None:
    """Gather each variable of a model on one device, but for those that another wrapped model holds as well."""
    device = runtime.placement.rows[0][0]
    moved = []
    for variable in _variables(model):
        placed = placed_value(variable)
        if placed is None:
            continue
        placed.owners.discard(runtime)
        if not placed.owners:
            gather_variable(variable, device)
            moved.append(variable)
    _renew_functions_of_others(model, moved)


def _columns(model: keras.Model, runtime: Runtime) -> Iterator[tuple[keras.Variable, Column]]:
    """Yield each variable of a model once, with the devices on which the plan wants its copies."""
    stages = runtime.stages_of(model) if model.built else {}
    last = len(runtime.plan.groups) - 1
    for optimizer in optimizers_in(getattr(model, "optimizer", None)):
        for slot, weight in slots_by_weight(optimizer).items():
            stages.setdefault(slot, stages.get(id(weight), last))
    for variable in _variables(model):
        yield variable, runtime.column(stages.get(id(variable), last))


def _variables(model: keras.Model) -> Iterator[keras.Variable]:
    """Yield each variable that a model's steps may write, once: weights, state, metrics, the optimizer's."""
    layers = flatten_layers(model)
    metrics = [*trainer_metrics(model), *own_metrics(layers)]
    optimizers = optimizers_in(getattr(model, "optimizer", None))
    everything = [*model.variables, *recurrent_states(layers), *_in(metrics), *_in(optimizers)]
    yield from {id(variable): variable for variable in everything if is_initialized(variable)}.values()


def written_variables(model: keras.Model) -> list[keras.Variable]:
    """Return each variable that a model's steps may write, once: weights, state, metrics, the optimizer's."""
    return list(_variables(model))


def _in(owners: Iterable[Any]) -> Iterator[keras.Variable]:
    return (variable for owner in owners for variable in owner.variables)


def _holds(runtime: Runtime, variable: keras.Variable) -> bool:
    placed = placed_value(variable)
    return placed is not None and runtime in placed.owners


def _others(variable: keras.Variable, former: Runtime | None) -> list[Runtime]:
    """Return what else holds a variable."""
    placed = placed_value(variable)
    return [] if placed is None else [owner for owner in placed.owners if owner is not former]


def _renew_functions_of_others(model: keras.Model, moved: list[keras.Variable]) -> None:
    """Let every Keras model but this one that shares moved variables trace its functions anew.

    They would go on writing to the first copy alone, or reading one that is none any more. A layer does not know the
    models that it is part of, so they are found among all objects; only those that have traced something matter.
    """
    if not moved:
        return
    ids = set(map(id, moved))
    for other in gc.get_objects():
        traced = issubclass(type(other), keras.Model) and other is not model and _has_traced(other)
        if traced and any(id(variable) in ids for variable in _variables(other)):
            renew_functions(other)


def _has_traced(model: keras.Model) -> bool:
    names = ("train_function", "test_function", "predict_function")
    return any(vars(model).get(name) is not None for name in names)
