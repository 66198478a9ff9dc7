"""What a Keras model keeps of `compile` and of its loops."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import compute_output_spec

from kparallel.compat.functions import traced
from kparallel.compat.layers import flatten_layers
from kparallel.compat.optimizers import made_outside

__all__: list[str] = []


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Return the objects a model was compiled with."""
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if model.compiled and config is not None else None


def record_jit(model: keras.Model, asked: Any) -> None:
    """Let a model's compile arguments, which go into its files, say what the user asked of XLA."""
    model._compile_config.config["jit_compile"] = asked


def trainer_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """Return the metrics that a model's `compile` made and was given."""
    loss = model._compile_loss
    made = [getattr(model, "_loss_tracker", None), model._compile_metrics]
    return [metric for metric in [*made, *(loss.metrics if loss is not None else [])] if metric is not None]


def forget_functions(model: keras.Model) -> None:
    """Let a Keras model make its functions anew when they are next needed."""
    # Keras makes a function where it finds None.
    model.train_function = model.test_function = model.predict_function = None


def renew_functions(model: keras.Model) -> None:
    """Let a plain Keras model trace its functions anew when they are next called, also within a `fit` that runs."""
    for kind in ("train", "test", "predict"):
        if getattr(model, f"{kind}_function") is not None:
            setattr(model, f"{kind}_function", None)
            getattr(model, f"make_{kind}_function")()


def build_symbolically(model: keras.Model, batch: Any) -> None:
    """Create what is still missing (weights, metrics, losses, optimizer slots) from one batch's shapes.

    Args:
        model: The compiled model.
        batch: Tensors or specs.
    """
    # Layers first: the optimizer makes a slot for each weight, so all weights have to be there.
    build_layers(model, batch)
    _build_optimizer(model)
    model._symbolic_build(data_batch=batch)


def _build_optimizer(model: keras.Model) -> None:
    """Make an optimizer's slots as plain Keras's first step does: while it is traced, unless steps run eagerly.

    What `build` assigns then stays in a trace that is never run, as `ScheduleFreeAdamW` assigns its momenta.
    """
    optimizer: Any = getattr(model, "optimizer", None)

    def build() -> None:  # TensorFlow traces a function that makes variables twice.
        if not optimizer.built:
            with made_outside():
                optimizer.build(model.trainable_variables)

    if optimizer is not None and not optimizer.built and not model.run_eagerly:
        # Traced, and never run. The variables that it makes stay.
        traced(build).get_concrete_function()


def build_layers(model: keras.Model, batch: Any) -> None:
    """Create the weights that are still missing from the shapes of one batch's inputs.

    Args:
        model: Compiled or not.
        batch: Tensors or specs: inputs, or a tuple that starts with them.
    """
    if all(layer.built for layer in flatten_layers(model)):
        return
    inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]

    def symbolic(leaf: Any) -> Any:
        return None if leaf is None else keras.KerasTensor(leaf.shape, leaf.dtype.name)

    compute_output_spec(model, keras.tree.map_structure(symbolic, inputs))


def resumed_epoch(model: keras.Model) -> int | None:
    """Return the epoch at which Keras's `BackupAndRestore` lets `fit` go on, or None where it starts from the first."""
    epoch: int | None = model._initial_epoch
    return epoch


def resume_at(model: keras.Model, epoch: int) -> None:
    """Let `fit` go on at an epoch, as Keras's `BackupAndRestore` does; 0 is the first."""
    model._initial_epoch = epoch or None


def known_rows(model: keras.Model) -> Callable[[Any], int | None]:
    """Return what tells how many rows plain Keras's step knows a batch to have, or None for one that it does not know.

    By these rows Keras weighs the loss of each of several outputs in the logs. An eager step knows them. A compiled
    step knows what its trace knows. Until Keras 3.15 it reads the batches within the traced function: it knows nothing.
    From 3.16 on it is called with each batch: it knows the rows of the first one, and no other number of rows, for
    which it is traced anew.

    Args:
        model: The compiled model.
    """

    def rows(batch: Any) -> int | None:
        leaf = keras.tree.flatten(batch)[0]
        return None if isinstance(leaf, tf.distribute.DistributedValues) else leaf.shape[0]

    # Eagerly each batch is a tensor with all its dims.
    if model.run_eagerly:
        return rows
    if model.steps_per_execution > 1 or tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16):
        return lambda batch: None
    # A function that is traced for the same batches knows the same.
    traces = traced(lambda batch: tf.constant(rows(batch) or -1), reduce_retracing=True)

    def as_traced(batch: Any) -> int | None:
        known = None if rows(batch) is None else int(traces(batch))
        return None if known == -1 else known

    return as_traced
