"""The loss function of the last stage: from outputs to loss terms, as numerators and statistics."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import Communicator
from kparallel.compat.distribute import one_replica_view
from kparallel.compat.losses import compiled_loss, route_losses
from kparallel.compat.tensors import keras_logits, keras_mask, set_logits, set_mask
from kparallel.data.share import Share
from kparallel.engine.coupling import Coupling
from kparallel.engine.loss_stage import LossFunction
from kparallel.engine.loss_state import LossState
from kparallel.loss.overridden import overrides_compute_loss, own_loss, own_state
from kparallel.loss.read_weights import refuse_weights
from kparallel.loss.term import LossWeight, Term, loss_term, row_mean, summed

__all__: list[str] = []


def loss_function(
    model: keras.Model,
    communicator: Communicator,
    replicas: int,
    coupling: Coupling,
    whole: bool,
    training: bool,
    loss_state: LossState,
) -> LossFunction:
    """Return a function from outputs and their rows to (loss weight, term) pairs, in Keras's order.

    Args:
        model: The compiled model.
        communicator: Gathers outputs where a loss needs the whole batch.
        replicas: The number of replicas.
        coupling: Decides which losses need the whole batch.
        whole: Whether the function receives all rows of a share at once.
        training: Keras's `training` argument.
        loss_state: Records the state that an overridden `compute_loss` changes.
    """

    gather = partial(_gathered, communicator=communicator, replicas=replicas)

    def own_term(outputs: Any, share: Share) -> Term:
        arguments = [share.x, share.y, outputs, share.sample_weight]
        meaning = coupling.of_own(lambda *traced: loss_state.computed(list(traced)), arguments, whole)
        if meaning == "global":
            arguments = [gather(argument, share) for argument in arguments]
            return _whole(_own_loss_of_batch(model, arguments, training), share)
        value = loss_state.loss(arguments, share.count)
        return row_mean(value, share.count) if meaning == "mean" else summed(value)

    def terms(outputs: Any, share: Share) -> list[tuple[LossWeight, Term]]:
        if overrides_compute_loss(model):
            return [(None, own_term(outputs, share))]
        # Evaluation takes no gradients, so that a loss may read what it likes.
        with refuse_weights(model) if training else nullcontext():
            return _compiled_terms(compiled_loss(model), outputs, share, coupling, whole, gather)

    return terms


def _compiled_terms(
    losses: Any, outputs: Any, share: Share, coupling: Coupling, whole: bool, gather: Callable[[Any, Share], Any]
) -> list[tuple[LossWeight, Term]]:
    """Return the terms of the compiled losses.

    Args:
        losses: Keras's container, or None.
        outputs: Those of some rows.
        share: These rows.
        coupling: As in `loss_function`.
        whole: As in `loss_function`.
        gather: Gives a structure the rows of all replicas.
    """
    result: list[tuple[LossWeight, Term]] = []
    if losses is None:
        return result
    for loss, weight, call in route_losses(losses, share.y, outputs, share.sample_weight):
        meaning = coupling.of(loss, call, whole)
        if meaning == "global":
            # Targets, outputs and sample weights, each of all rows in the order of the batch.
            batch = [gather(value, share) for value in call]
            # Keras scales a loss by the number of replicas in the current strategy; here nothing is divided.
            with one_replica_view():
                result.append((weight, _whole(loss(*batch), share)))
        else:
            y_true, y_pred, row_weight = call
            term = loss_term(loss, y_true, y_pred, row_weight, share.count, meaning, share.whole)
            result.append((weight, term))
    return result


def _own_loss_of_batch(model: keras.Model, arguments: list[Any], training: bool) -> tf.Tensor:
    """Return what an overridden `compute_loss` makes of the whole batch, and write the state that it changes.

    Every replica computes it from the same rows. So each assigns the same values, and no all-reduce is needed.
    """
    state = own_state(model)
    value, new_values, _ = own_loss(model, arguments, training, state)
    for (variable, _), new in zip(state, new_values, strict=True):
        if new is not None:
            variable.assign(new)
    return value


def _gathered(value: Any, share: Share, communicator: Communicator, replicas: int) -> Any:
    """Return the rows of all replicas; gradients flow to this replica's rows only.

    ```text
    replica 0   leaf ─┐   ┌─► [leaf, stop(leaf1)]     this replica's part stays connected to its tape,
    replica 1   leaf ─┴─►─┴─► [stop(leaf0), leaf]     the other parts are constants
    ```
    """

    def joined(tensor: tf.Tensor) -> tf.Tensor:
        parts = [tf.stop_gradient(part) for part in communicator.all_gather([tensor])[0]]
        parts[communicator.replica_index] = tensor
        return tf.concat(parts, 0)

    def whole(leaf: Any) -> Any:
        if leaf is None or replicas == 1:
            return leaf
        if not isinstance(leaf, tf.RaggedTensor):
            leaf = tf.convert_to_tensor(leaf)
        leaf = leaf[: share.count]  # Without the padding row of an empty share.
        if isinstance(leaf, tf.RaggedTensor):
            lengths = [joined(each) for each in leaf.nested_row_lengths()]
            return tf.RaggedTensor.from_nested_row_lengths(joined(leaf.flat_values), lengths)
        return joined(leaf)

    def with_mask_and_logits(leaf: Any) -> Any:
        gathered = whole(leaf)
        for read, attach in ((keras_mask, set_mask), (keras_logits, set_logits)):
            attached = read(leaf)
            if attached is not None and replicas > 1:
                attach(gathered, whole(attached))
        return gathered

    return keras.tree.map_structure(with_mask_and_logits, value)


def _whole(value: tf.Tensor, share: Share) -> Term:
    """Return the term of a loss that every replica computed for the whole batch.

    Each replica's gradient reaches its own rows only, so the gradients add up with a factor of 1. Each replica
    reports the same value, so the reported value is averaged over the replicas that had rows. Of a value that is not
    reduced Keras differentiates the sum, and logs the mean.
    """
    entries = tf.cast(tf.size(value), tf.float64) if share.count else tf.constant(0.0, tf.float64)
    one = tf.constant(1.0, tf.float64)
    return Term(tf.reduce_sum(value), [entries], lambda statistics: (one, one / statistics[0]))
