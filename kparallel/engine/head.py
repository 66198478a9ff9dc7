"""What the last stage computes from its outputs: loss terms, as numerators and statistics."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.collective.exchange import Exchange
from kparallel.data.rows import Rows
from kparallel.engine.tail import Head
from kparallel.loss.term import Term, is_batch_coupled, loss_term, row_mean, summed
from kparallel.metric.additive import refuse_updates
from kparallel.private import compiled_loss, flat_losses, one_replica_view, own_metrics, route_losses

__all__: list[str] = []


def overrides_compute_loss(model: keras.Model) -> bool:
    """Tell whether a subclass computes its own loss."""
    return type(model).compute_loss is not keras.Model.compute_loss


def couples_rows(model: keras.Model, reduction: str) -> bool:
    """Tell whether a loss must see all rows of the batch at once."""
    losses = compiled_loss(model)
    return reduction == "global" or (losses is not None and any(is_batch_coupled(loss) for loss in flat_losses(losses)))


def loss_head(model: keras.Model, exchange: Exchange, replicas: int, reduction: str, training: bool) -> Head:
    """Return the head that turns outputs and rows into (loss weight, term) pairs, in Keras's order.

    Args:
        model: The compiled model.
        exchange: Gathers outputs where a loss needs the whole batch.
        replicas: How many replicas there are.
        reduction: `"mean"`, `"sum"` or `"global"`: what a loss means that returns a scalar.
        training: As Keras means it.
    """
    scalar = "mean" if reduction == "global" else reduction

    def own_loss(outputs: Any, rows: Rows) -> list[tuple[float | None, Term]]:
        arguments = [rows.x, rows.y, outputs, rows.sample_weight]
        if reduction == "global":
            arguments = [_gathered(argument, rows, exchange, replicas) for argument in arguments]
        extra = {"training": training} if model._compute_loss_has_training_arg else {}
        if reduction == "global":
            with one_replica_view():
                return [(None, _whole(model.compute_loss(*arguments, **extra), rows))]
        with keras.StatelessScope() as scope, one_replica_view():
            value = model.compute_loss(*arguments, **extra)
        way_out = 'Update it in compute_metrics, or pass loss_reduction="global" to kparallel.wrap.'
        refuse_updates(own_metrics([model]), scope, "compute_loss", way_out)
        return [(None, row_mean(value, rows.count) if scalar == "mean" else summed(value))]

    def terms(outputs: Any, rows: Rows) -> list[tuple[float | None, Term]]:
        if overrides_compute_loss(model):
            return own_loss(outputs, rows)
        result: list[tuple[float | None, Term]] = []
        losses = compiled_loss(model)
        if losses is None:
            return result
        for loss, weight, call in route_losses(losses, rows.y, outputs, rows.sample_weight):
            y_true, y_pred, row_weight = call
            if is_batch_coupled(loss) or (reduction == "global" and _returns_scalar(loss, call)):
                whole = [_gathered(value, rows, exchange, replicas) for value in call]
                with one_replica_view():
                    result.append((weight, _whole(loss(*whole), rows)))
            else:
                result.append((weight, loss_term(loss, y_true, y_pred, row_weight, rows.count, scalar)))
        return result

    return terms


def _returns_scalar(loss: Any, call: tuple[Any, Any, Any]) -> bool:
    return not loss.call(call[0], call[1]).shape.rank


def _gathered(value: Any, rows: Rows, exchange: Exchange, replicas: int) -> Any:
    """Return all replicas' rows, through which only this replica's are differentiable."""

    def whole(leaf: Any) -> Any:
        if leaf is None or replicas == 1:
            return leaf
        leaf = tf.convert_to_tensor(leaf)
        leaf = leaf[: rows.count]
        parts = [tf.stop_gradient(part) for part in exchange.gather([leaf])[0]]
        parts[exchange.replica_index] = leaf
        return tf.concat(parts, 0)

    return keras.tree.map_structure(whole, value)


def _whole(value: tf.Tensor, rows: Rows) -> Term:
    """Make a term of a loss that every replica computed for the whole batch.

    Each replica's gradient reaches its own rows only, so gradients add up; the value is averaged over the
    replicas that had rows.
    """
    value = tf.reduce_sum(value)
    one = tf.constant(1.0, tf.float64)
    return Term(value, [tf.constant(float(rows.count > 0), tf.float64)], lambda present: (one, one / present[0]))
