"""Builds a model of which no more than one variable at a time is on this machine, where its stage is elsewhere.

```text
builder ─► model without values ─► plan ─► for each variable: initialized in host memory ─► on its stage's devices
```
"""

from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.variables import place_variable
from kparallel.compat.weightless import Pending, build_pending
from kparallel.devices import has_several_machines
from kparallel.errors import ModelError
from kparallel.model.runtime import Runtime

__all__: list[str] = []

_HOST = "CPU:0"


def build_model(model: Any) -> tuple[Any, Pending]:
    """Return a model, or what a user's builder makes: no accelerator holds more than its own stage.

    Where stages are on other machines, the variables get their values when they are placed.

    Args:
        model: A model, or a function that builds one in host memory.

    Returns:
        The model, and its variables without values.

    Raises:
        ModelError: A builder returned no Keras model.
    """
    if isinstance(model, keras.layers.Layer) or not callable(model):
        return model, Pending([], {})
    with tf.device(_HOST):
        made, pending = build_pending(model) if has_several_machines() else (model(), Pending([], {}))
    if not isinstance(made, keras.Model):
        raise ModelError(f"Expected a builder that returns a keras.Model, received {type(made).__name__}.")
    return made, pending


def place_pending(model: keras.Model, runtime: Runtime, pending: Pending) -> None:
    """Give each variable of a model its value, and at once its place.

    Args:
        model: As `build_model` made it.
        runtime: Has the plan.
        pending: As `build_model` returned it.
    """
    if not pending.variables:
        return
    several = model.built and len(runtime.plan.groups) > 1
    stages = runtime.stages_of(model) if several else {}
    with tf.device(_HOST):
        for variable in pending.variables:
            pending.initialize(variable)
            if id(variable) in stages:
                place_variable(variable, runtime.strategy, runtime.column(stages[id(variable)]))
        pending.finish()
