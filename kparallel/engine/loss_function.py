"""What the last stage computes from its outputs: loss terms, as numerators and statistics."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import Communicator
from kparallel.compat.distribute import one_replica_view
from kparallel.compat.losses import compiled_loss, route_losses
from kparallel.compat.tensors import keras_logits, keras_mask, set_logits, set_mask
from kparallel.data.share import Rows
from kparallel.engine.coupling import Coupling
from kparallel.engine.loss_stage import LossFunction
from kparallel.engine.loss_state import LossState
from kparallel.loss.overridden import overrides_compute_loss, own_loss, own_state
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
    """Return the head that turns outputs and rows into (loss weight, term) pairs, in Keras's order.

    Args:
        model: The compiled model.
        communicator: Gathers outputs where a loss needs the whole batch.
        replicas: How many replicas there are.
        coupling: Tells which losses must see the whole batch.
        whole: Whether the head is given all rows of a share at once.
        training: As Keras means it.
        loss_state: Takes what the model's own `compute_loss` does to state.
    """

    def own_term(outputs: Any, rows: Rows) -> Term:
        arguments = [rows.x, rows.y, outputs, rows.sample_weight]
        way = coupling.of_own(lambda *given: loss_state.computed(list(given)), arguments, whole)
        if way == "global":
            arguments = [_gathered(argument, rows, communicator, replicas) for argument in arguments]
            state = own_state(model)
            value, news, _ = own_loss(model, arguments, training, state)
            for (variable, _), new in zip(state, news, strict=True):
                if new is not None:
                    variable.assign(new)
            return _whole(value, rows)
        value = loss_state.loss(arguments, rows.count)
        return row_mean(value, rows.count) if way == "mean" else summed(value)

    def terms(outputs: Any, rows: Rows) -> list[tuple[LossWeight, Term]]:
        if overrides_compute_loss(model):
            return [(None, own_term(outputs, rows))]
        result: list[tuple[LossWeight, Term]] = []
        losses = compiled_loss(model)
        if losses is None:
            return result
        for loss, weight, call in route_losses(losses, rows.y, outputs, rows.sample_weight):
            y_true, y_pred, row_weight = call
            way = coupling.of(loss, call, whole)
            if way == "global":
                batch = [_gathered(value, rows, communicator, replicas) for value in call]
                with one_replica_view():
                    result.append((weight, _whole(loss(*batch), rows)))
            else:
                result.append((weight, loss_term(loss, y_true, y_pred, row_weight, rows.count, way)))
        return result

    return terms


def _gathered(value: Any, rows: Rows, communicator: Communicator, replicas: int) -> Any:
    """Return all replicas' rows, through which only this replica's are differentiable."""

    def whole(leaf: Any) -> Any:
        if leaf is None or replicas == 1:
            return leaf
        leaf = tf.convert_to_tensor(leaf)
        leaf = leaf[: rows.count]
        parts = [tf.stop_gradient(part) for part in communicator.all_gather([leaf])[0]]
        parts[communicator.replica_index] = leaf
        return tf.concat(parts, 0)

    def with_mask_and_logits(leaf: Any) -> Any:
        joined = whole(leaf)
        for read, attach in ((keras_mask, set_mask), (keras_logits, set_logits)):
            attached = read(leaf)
            if attached is not None and replicas > 1:
                attach(joined, whole(attached))
        return joined

    return keras.tree.map_structure(with_mask_and_logits, value)


def _whole(value: tf.Tensor, rows: Rows) -> Term:
    """Make a term of a loss that every replica computed for the whole batch.

    Each replica's gradient reaches its own rows only, so gradients add up; the value is averaged over the
    replicas that had rows.
    """
    value = tf.reduce_sum(value)
    one = tf.constant(1.0, tf.float64)
    return Term(value, [tf.constant(float(rows.count > 0), tf.float64)], lambda present: (one, one / present[0]))
