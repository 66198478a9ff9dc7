"""What a step reports: losses and metrics, of one replica or summed over all."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kparallel.compat.losses import compiled_metrics
from kparallel.compat.tensors import keras_logits
from kparallel.data.share import Share
from kparallel.engine.replica import Replica
from kparallel.metric.additive import is_additive, state_change

__all__: list[str] = []


@dataclass(frozen=True)
class Report:
    """What is reported of a step: of one replica, or summed over all.

    Args:
        rows: How many rows there were.
        replicas: How many replicas had rows.
        terms: Each loss term's part of its value.
        metrics: By how much each variable of the metrics changes.
        loss_state: By how much each variable changes that a model's own `compute_loss` updates.
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
        """Return one replica's report. An empty share reports zeros: its row of zeros may have made NaN."""
        if not share.count:
            terms, metrics = ([tf.zeros_like(value) for value in values] for values in (terms, metrics))
        rows = tf.constant(float(share.count), tf.float64)
        return cls(rows, tf.constant(float(share.count > 0), tf.float64), terms, metrics, loss_state)

    def vector(self, dtype: tf.DType) -> tf.Tensor:
        """Return this report as one vector, which travels as one tensor."""
        return tf.concat([tf.reshape(tf.cast(value, dtype), [-1]) for value in self._values()], 0)

    def from_vector(self, vector: tf.Tensor) -> "Report":
        """Return the report of another replica, or of all, which has this one's shapes and dtypes."""
        values = self._values()
        parts = tf.split(vector, [value.shape.num_elements() for value in values])
        own = iter([tf.cast(tf.reshape(p, v.shape), v.dtype) for p, v in zip(parts, values, strict=True)])
        rows, replicas = next(own), next(own)
        terms, metrics, loss_state = ([next(own) for _ in each] for each in (self.terms, self.metrics, self.loss_state))
        return Report(rows, replicas, terms, metrics, loss_state)

    def _values(self) -> list[tf.Tensor]:
        return [self.rows, self.replicas, *self.terms, *self.metrics, *self.loss_state]


class StepReport(NamedTuple):
    """What a step returns to the functions that Keras's loops call, the same on every replica.

    Args:
        rows: How many rows the batch had.
        terms: The value of each loss term, in one vector.
        metrics: By how much each variable of the metrics changes.
        batch: All rows, where metrics have to see them at once, else None.
    """

    rows: tf.Tensor
    terms: tf.Tensor
    metrics: list[tf.Tensor]
    batch: Any


class Metrics:
    """How a model's metrics are had from the replicas: each adds up, or they see the whole batch at once.

    Args:
        model: The compiled model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._metrics = compiled_metrics(model)
        self._own = getattr(model.compute_metrics, "__func__", None) is not keras.Model.compute_metrics
        self._additive = not self._own and (
            self._metrics is None or all(is_additive(metric) for metric in self._metrics.metrics)
        )

    def changes(self, outputs: Any, share: Share) -> list[tf.Tensor]:
        """Return by how much this replica's rows change the metrics' variables; nothing where they do not add up."""
        if self._metrics is None or not self._metrics.variables or not self._add_up(outputs):
            return []
        return state_change(self._metrics, share.y, outputs, sample_weight=share.sample_weight)

    def batch(self, outputs: Any, share: Share, replica: Replica) -> Any:
        """Return all replicas' inputs, targets, outputs, weights and logits where metrics need them, else None."""
        if self._add_up(outputs):
            return None
        logits = keras.tree.map_structure(keras_logits, outputs)
        inputs = share.x if self._own else None  # Keras's own metrics do not read them.
        return gathered((inputs, share.y, outputs, share.sample_weight, logits), share, replica)

    def _add_up(self, outputs: Any) -> bool:
        # Of one number a row Keras's metrics take the mean over the rows, and then count batches.
        flat = self._metrics is not None and any(
            leaf.dtype.is_floating and leaf.shape.rank < 2 for leaf in keras.tree.flatten(outputs)
        )
        return self._additive and not (flat and self._metrics.variables)


def gathered(structure: Any, share: Share, replica: Replica) -> Any:
    """Return all replicas' rows of a structure, in the order of the replicas."""
    if replica.is_single:
        return structure
    leaves = [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
    parts = iter(replica.last.all_gather([leaf[: share.count] for leaf in leaves]))
    return keras.tree.map_structure(lambda leaf: None if leaf is None else tf.concat(next(parts), 0), structure)
