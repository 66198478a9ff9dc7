"""A `fit` that goes on where a checkpoint was written, on every worker alike."""

import json
import sys
from typing import Any

import keras
import numpy as np

from kparallel.compat.optimizers import learning_rates
from kparallel.compat.training import resume_at
from kparallel.resume.draw_states import restore_draws
from kparallel.resume.progress import Progress

__all__: list[str] = []


def resume_training(model: Any, training: dict[str, Any]) -> None:
    """Let the `fit` that begins go on where a checkpoint was written; the model has its variables' values.

    Args:
        model: Wrapped, in `fit`, its callbacks have begun.
        training: What `restore_newest` returned.
    """
    runtime = model._kparallel
    progress: Progress = runtime.epoch.progress
    if runtime.epoch.order is not None and training["order_seed"] is not None:
        runtime.epoch.order.seed = training["order_seed"]
    runtime.epoch.logs = training.get("logs", {})
    # Before the states of Python's generators: where Keras's is made, its seed is drawn from these.
    restore_draws(runtime, training.get("draws", {}))
    # At an epoch's start the metrics begin anew anyway.
    within = training["data"] is not None and training["data"]["steps"] > 0
    kept = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in set_at_epoch_begin(model)] if within else []

    def begin() -> None:
        resume_at(model, 0)  # It would count for every later fit, too.
        for variable, value in kept:
            variable.assign(value)
        history = training.get("history")
        if history is not None:
            # Keras's History began at the start of this `fit`, with the epochs of this process alone.
            model.history.epoch = list(history["epoch"])
            model.history.history = {name: list(values) for name, values in history["history"].items()}

    if training.get("finished"):  # No epoch begins, and the history is that of the run that is over.
        model.history.history = {name: list(values) for name, values in training["history"]["history"].items()}
    # A run that a callback has stopped, as EarlyStopping does, is over.
    resume_at(model, sys.maxsize if training.get("stopped") else training["epoch"])
    if training["data"] is not None:
        progress.resume(training["epoch"], json.loads(json.dumps(training["data"])), begin)


def set_at_epoch_begin(model: Any) -> list[Any]:
    """Return the variables that are set when an epoch begins.

    One that is resumed within begins a second time. Keras resets the metrics then, and a callback may multiply what is
    there: the learning rate, or a number that the model holds, such as the weight of a term of its loss.
    """
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    numbers = [variable for variable in model.non_trainable_variables if variable.shape == ()]
    found = [*metrics, *numbers, *learning_rates(getattr(model, "optimizer", None))]
    return list({id(variable): variable for variable in found}.values())
