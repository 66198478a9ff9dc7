"""Finds which weights a loss or a penalty of the user's own reads, whose gradients pass through no output."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from kparallel.compat.losses import compiled_loss, flat_losses
from kparallel.compat.variables import copies_of, placed_value, variable_of_workers
from kparallel.loss.overridden import NotOfOutputsError
from kparallel.loss.term import is_rowwise

__all__: list[str] = []


def may_read_weights(model: keras.Model) -> bool:
    """Tell whether a compiled loss may be the user's own: only such a one can know the model."""
    losses = compiled_loss(model)
    # Before the first batch Keras has not made losses of what was passed to `compile`.
    return losses is not None and not (losses.built and all(map(is_rowwise, flat_losses(losses))))


@contextmanager
def refuse_weights(model: keras.Model) -> Iterator[None]:
    """Refuse a training step if what is computed inside reads a weight of the model.

    The backward passes differentiate the losses by the outputs alone. What a loss adds to the gradient of a weight
    that it reads itself, as a penalty of the weight does, would be lost without a word.

    Args:
        model: The compiled model, its variables placed.

    Raises:
        NotOfOutputsError: A weight was read.
    """
    if not may_read_weights(model):
        yield
        return
    # A tape knows which variables are read, also by a function that the loss calls.
    with tf.GradientTape() as tape:
        yield
    read = [variable.path for variable in weights_read(tape, model.trainable_variables)]
    if read:
        raise NotOfOutputsError(
            f"Expected the losses of {model.name!r} to depend on the outputs alone under stages or "
            f"microbatches, but they read the weights {read[:4]}. Say replicas= alone; or pass a penalty of "
            "weights as a kernel_regularizer; or return what the loss needs as one more output."
        )


def weights_read(tape: tf.GradientTape, weights: Iterable[keras.Variable]) -> list[keras.Variable]:
    """Return those of some weights that were read under a tape which watches variables.

    Args:
        tape: It has recorded.
        weights: Placed Keras variables.
    """
    seen = set(map(id, tape.watched_variables()))
    return [variable for variable in weights if seen and seen & _ids(variable)]


def _ids(variable: keras.Variable) -> set[int]:
    """Return the ids by which a tape may know a variable: of its copies, or of the variable that holds them."""
    placed, owned = placed_value(variable), variable_of_workers(variable)
    if owned is not None:  # Another worker may hold its only copy.
        return {id(owned), *map(id, owned.local_copies)}
    return set() if placed is None else {id(placed), *map(id, copies_of(variable))}
