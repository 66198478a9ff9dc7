"""The report of a step: losses and changes of metrics, of one replica or summed over all replicas."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kparallel.compat.losses import compiled_metrics
from kparallel.compat.tensors import keras_logits, keras_mask
from kparallel.data.share import Share
from kparallel.engine.replica import Replica
from kparallel.metric.additive import is_additive, state_change
from kparallel.metric.broadcast import check_metrics

__all__: list[str] = []


@dataclass(frozen=True)
class Report:
    """The report of one replica, or the sum of all replicas' reports.

    Args:
        rows: The number of rows; a float64 scalar.
        replicas: The number of replicas that had rows; a float64 scalar.
        terms: `[term]`: this replica's summand of each loss term's value; float64 scalars.
        metrics: The change of each variable of the metrics.
        loss_state: The change of each variable that an overridden `compute_loss` updates.
    """

    rows: tf.Tensor
    replicas: tf.Tensor
    terms: list[tf.Tensor]
    metrics: list[tf.Tensor]
    loss_state: list[tf.Tensor]

    @classmethod
    def of(
        cls, share: Share, terms: list[tf.Tensor], metrics: list[tf.Tensor], loss_state: list[tf.Tensor]
    ) -> "Report":
        """Return one replica's report. An empty share reports zeros: its padding row may have given NaN."""
        if not share.count:
            terms, metrics = ([tf.zeros_like(value) for value in values] for values in (terms, metrics))
        rows = tf.constant(float(share.count), tf.float64)
        return cls(rows, tf.constant(float(share.count > 0), tf.float64), terms, metrics, loss_state)

    def vector(self, dtype: tf.DType) -> tf.Tensor:
        """Return this report as one vector: one tensor travels faster than many scalars."""
        return tf.concat([tf.reshape(tf.cast(value, dtype), [-1]) for value in self._values()], 0)

    def from_vector(self, vector: tf.Tensor) -> "Report":
        """Return a summed report from its vector. It has the shapes and dtypes of this one."""
        values = self._values()
        parts = tf.split(vector, [value.shape.num_elements() for value in values])
        own = iter([tf.cast(tf.reshape(p, v.shape), v.dtype) for p, v in zip(parts, values, strict=True)])
        # The order is that of `_values`.
        rows, replicas = next(own), next(own)
        terms, metrics, loss_state = ([next(own) for _ in each] for each in (self.terms, self.metrics, self.loss_state))
        return Report(rows, replicas, terms, metrics, loss_state)

    def _values(self) -> list[tf.Tensor]:
        return [self.rows, self.replicas, *self.terms, *self.metrics, *self.loss_state]


class StepReport(NamedTuple):
    """The result of a step for the functions that Keras's loops call; equal on every replica.

    Args:
        rows: The number of rows of the batch.
        terms: `[term]`: the value of each loss term, as one vector.
        metrics: The change of each variable of the metrics.
        batch: Inputs, targets, outputs, weights, logits and masks of all rows if metrics need them at once, else None.
    """

    rows: tf.Tensor
    terms: tf.Tensor
    metrics: list[tf.Tensor]
    batch: Any


class Metrics:
    """The compiled metrics of a model: they are updated on each replica and summed, or once with the whole batch.

    Args:
        model: The compiled model.
        replicas: The number of replicas.
    """

    def __init__(self, model: keras.Model, replicas: int) -> None:
        self._metrics = compiled_metrics(model)
        # An overridden `compute_metrics` may do anything with the rows, so it gets all of them.
        self._own = getattr(model.compute_metrics, "__func__", None) is not keras.Model.compute_metrics
        self._additive = not self._own and (
            self._metrics is None or all(is_additive(metric) for metric in self._metrics.metrics)
        )
        self._unchecked = replicas > 1  # A single replica has all rows, as plain Keras.

    @property
    def may_add_up(self) -> bool:
        """Whether the metrics are sums over the rows for outputs with an inner dim."""
        return self._additive

    def changes(self, outputs: Any, share: Share) -> list[tf.Tensor]:
        """Return this replica's changes of the metrics' variables; an empty list if they need the whole batch.

        Raises:
            DataError: A metric takes targets, outputs and weights of these shapes for some numbers of rows only.
        """
        if self._metrics is None or not self._metrics.variables or not self.add_up(outputs):
            return []
        changes = state_change(self._metrics, share.y, outputs, sample_weight=share.sample_weight)
        # What fails anyway has failed by now, with Keras's own words.
        if self._unchecked:
            check_metrics(self._metrics, share.y, outputs, share.sample_weight)
            self._unchecked = False
        return changes

    def batch(self, outputs: Any, share: Share, replica: Replica) -> Any:
        """Return inputs, targets, outputs, weights, logits and masks of all rows if metrics need them, else None."""
        if self.add_up(outputs):
            return None
        # Logits and masks are attributes of the outputs, which the gathered tensors would lose.
        attributes = [keras.tree.map_structure(read, outputs) for read in (keras_logits, keras_mask)]
        inputs = share.x if self._own else None  # Keras's own metrics do not read them.
        return gathered((inputs, share.y, outputs, share.sample_weight, *attributes), share, replica)

    def add_up(self, outputs: Any) -> bool:
        """Tell whether the metrics are sums over the rows, so that changes of them suffice."""
        # Given outputs without an inner dim, Keras's metrics take the mean over the rows first, and then the mean over
        # batches: each call counts as 1, whatever its number of rows.
        flat = self._metrics is not None and any(
            leaf.dtype.is_floating and leaf.shape.rank < 2 for leaf in keras.tree.flatten(outputs)
        )
        return self._additive and not (flat and self._metrics.variables)


def gathered(structure: Any, share: Share, replica: Replica) -> Any:
    """Return a structure with the rows of all replicas, in the order of the replicas."""
    if replica.is_single:
        return structure
    # None is a leaf for `keras.tree`, but no tensor: it stays in its place, and the others are gathered around it.
    leaves = [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
    parts = iter(replica.last.all_gather([leaf[: share.count] for leaf in leaves]))
    return keras.tree.map_structure(lambda leaf: None if leaf is None else tf.concat(next(parts), 0), structure)
