"""Compile a model as another is compiled."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from kparallel.model.optimizer import copy_state, rebuild_optimizer
from kparallel.private import compile_arguments, optimized_variables

__all__: list[str] = []


def recompile(source: keras.Model, target: keras.Model, scope: AbstractContextManager[None]) -> None:
    """Compile a model as another is compiled, with fresh metrics and the same optimizer state.

    Args:
        source: The model to follow; nothing happens if it is not compiled.
        target: Its twin.
        scope: Where the target's optimizer keeps its slots.
    """
    arguments = compile_arguments(source)
    if arguments is None:
        return

    def fresh(value: Any) -> Any:
        return type(value).from_config(value.get_config()) if isinstance(value, keras.metrics.Metric) else value

    for key in ("metrics", "weighted_metrics"):
        arguments[key] = keras.tree.map_structure(fresh, arguments.get(key))
    arguments["optimizer"] = rebuild_optimizer(source.optimizer, nullcontext())
    arguments["jit_compile"] = arguments.get("jit_compile") or "auto"
    target.compile(**arguments)
    if target.built:
        twins = dict(zip(map(id, source.variables), target.variables, strict=True))
        with scope:
            # A layer that was frozen later keeps its slots.
            slotted = [twins[id(v)] for v in optimized_variables(source.optimizer) if id(v) in twins]
            copy_state(source.optimizer, target.optimizer, slotted or target.trainable_variables)
