"""One step of one replica: forward, backward, reduction, update, and what is to be reported."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kparallel.collective.exchange import Exchange
from kparallel.data.rows import Rows, take_rows
from kparallel.engine.head import loss_head
from kparallel.metric.additive import is_additive, state_change
from kparallel.private import compiled_metrics, local_updates
from kparallel.stage.stage import Forward, Stage

__all__: list[str] = []


class Step:
    """The work of one replica on its share of a batch.

    Args:
        model: The compiled and built model.
        exchange: How its replicas talk.
        replicas: How many there are.
        loss_reduction: What a loss means that returns a scalar.
    """

    def __init__(self, model: keras.Model, exchange: Exchange, replicas: int, loss_reduction: str) -> None:
        self._model = model
        self._exchange = exchange
        self._replicas = replicas
        self._loss_reduction = loss_reduction
        self._stage = Stage(model)
        layers = model._flatten_layers()
        # Synchronized BatchNorm counts rows itself, so an empty share must stay empty.
        self._pad = not any(getattr(layer, "synchronized", False) for layer in layers)
        metrics = compiled_metrics(model)
        plain = type(model).compute_metrics is keras.Model.compute_metrics
        self.add_metrics = plain and (metrics is None or all(is_additive(metric) for metric in metrics.metrics))

    def train(self, data: Any) -> dict[str, Any]:
        """Run a training step and return what to report."""
        rows = take_rows(data, pad=self._pad)
        weights = self._stage.read()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            forward = self._forward(weights, rows, training=True)
            numerators = [term.numerator for _, term in forward.head]
        gradient_factors, report_factors, batch_rows = self._factors(forward, rows)
        upstream = [
            self._model.optimizer.scale_loss(tf.cast(factor, numerator.dtype))
            for factor, numerator in zip(gradient_factors, numerators, strict=True)
        ]
        if self._stage.weights:
            upstream = [tf.cast(u, n.dtype) for u, n in zip(upstream, numerators, strict=True)]
            gradients = tape.gradient(numerators, weights, output_gradients=upstream)
            self._update(_guarded(gradients, rows))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return self._report(forward, rows, report_factors, batch_rows)

    def test(self, data: Any) -> dict[str, Any]:
        """Run an evaluation step and return what to report."""
        rows = take_rows(data, pad=self._pad)
        forward = self._forward(self._stage.read(), rows, training=False)
        _, report_factors, batch_rows = self._factors(forward, rows)
        return self._report(forward, rows, report_factors, batch_rows)

    def predict(self, data: Any) -> Any:
        """Return the outputs of this replica's rows."""
        rows = take_rows(data, pad=self._pad)
        forward = self._stage.forward(self._stage.read(), rows.x, False, 0, lambda *_: None)
        return _true_rows(forward.outputs, rows)

    def _forward(self, weights: list[tf.Tensor], rows: Rows, training: bool) -> Forward:
        head = loss_head(self._model, rows, self._exchange, self._replicas, self._loss_reduction, training)
        return self._stage.forward(weights, rows.x, training, self._exchange.replica_index, head)

    def _factors(self, forward: Forward, rows: Rows) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
        """Sum the statistics over the replicas and turn them into factors."""
        terms = [term for _, term in forward.head]
        present = tf.cast(rows.count > 0, tf.float64)
        flat = [tf.cast(rows.count, tf.float64)]
        flat += [_where_present(s, present) for term in terms for s in term.statistics]
        total = tf.unstack(self._exchange.sum([tf.stack(flat)])[0])
        batch_rows, rest = total[0], iter(total[1:])
        gradient, report = [], []
        for weight, term in forward.head:
            factors = term.factors([next(rest) for _ in term.statistics])
            scale = tf.constant(1.0 if weight is None else weight, tf.float64)
            gradient.append(factors[0] * scale)
            report.append(factors[1])
        return gradient, report, batch_rows

    def _update(self, gradients: list[Any]) -> None:
        known = [(i, g) for i, g in enumerate(gradients) if g is not None]
        summed = self._exchange.sum([g for _, g in known])
        for (index, _), total in zip(known, summed, strict=True):
            gradients[index] = total
        with local_updates(self._model.distribute_strategy):
            self._model.optimizer.apply(gradients, self._stage.weights)

    def _report(self, forward: Forward, rows: Rows, factors: list[tf.Tensor], batch_rows: tf.Tensor) -> dict[str, Any]:
        present = tf.cast(rows.count > 0, tf.float64)
        total: Callable[[list[Any]], list[Any]] = self._exchange.sum
        self._stage.commit(forward.state, present, total)
        values = [
            _where_present(tf.cast(term.numerator, tf.float64) * factor, present)
            for (_, term), factor in zip(forward.head, factors, strict=True)
        ]
        report: dict[str, Any] = {"rows": batch_rows, "terms": total([tf.stack(values)])[0]}
        metrics = compiled_metrics(self._model)
        if not self.add_metrics:
            report["batch"] = _true_rows((rows.x, rows.y, forward.outputs, rows.sample_weight), rows)
        elif metrics is not None and metrics.variables:
            changes = state_change(metrics, rows.y, forward.outputs, sample_weight=rows.sample_weight)
            report["metrics"] = total([_where_present(change, present) for change in changes])
        return report


def _where_present(value: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    value = tf.cast(value, tf.float64) if not value.shape.rank else value
    return tf.where(present > 0, value, tf.zeros_like(value))


def _guarded(gradients: list[Any], rows: Rows) -> list[Any]:
    """Zero the gradients of an empty share: its row of zeros may have made NaN."""
    if rows.certain:
        return gradients

    def guard(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tf.IndexedSlices):
            keep = tf.reshape(rows.count > 0, [1] * value.values.shape.rank)
            return tf.IndexedSlices(
                tf.where(keep, value.values, tf.zeros_like(value.values)), value.indices, value.dense_shape
            )
        return tf.where(rows.count > 0, value, tf.zeros_like(value))

    return [guard(value) for value in gradients]


def _true_rows(structure: Any, rows: Rows) -> Any:
    """Cut the row that padding added to an empty share."""
    if rows.certain:
        return structure

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, tf.Tensor) or not leaf.shape.rank:
            return leaf
        return leaf[: tf.where(rows.count > 0, tf.shape(leaf)[0], 0)]

    return keras.tree.map_structure(cut, structure)
