"""Metrics that a model's own `compute_loss` updates, with a part of a batch at a time."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.errors import ModelError
from kparallel.loss.own import overrides_compute_loss, own_loss
from kparallel.metric.additive import noting_sums, refuse_divided
from kparallel.private import own_metrics
from kparallel.stage.dependence import Dependence, dependences
from kparallel.stage.state import RULES, End, Rule, State

__all__: list[str] = []


class Tracked:
    """The metrics of one replica's batch.

    Args:
        model: Has a `compute_loss` of its own.
        training: As Keras means it.
    """

    def __init__(self, model: keras.Model, training: bool) -> None:
        self._model = model
        self._training = training
        self._metrics = own_metrics([model]) if overrides_compute_loss(model) else []
        self._state = State([v for metric in self._metrics for v in metric.variables], set(), set(), set())
        self._start = self._state.read(0)
        self._ends: list[End] = []
        self._counts: list[int] = []
        self._rules: Sequence[Rule] = ()

    def loss(self, arguments: list[Any], count: int) -> Any:
        """Return the loss of some rows, and keep what it does to the metrics.

        Args:
            arguments: x, y, outputs and sample weights.
            count: How many rows.
        """
        value, end = self._called(self._start, arguments)
        if not self._ends and any(last is not None for last in end):
            self._rules = self._found(arguments)
        self._ends.append(end)
        self._counts.append(count)
        return value

    def computed(self, arguments: list[Any]) -> Any:
        """Return the loss of some rows, and keep nothing."""
        return self._called(self._start, arguments)[0]

    def changes(self, rows: int) -> list[tf.Tensor]:
        """Return by how much this replica's rows change what the replicas have to add up."""
        return self._state.changes(self._start, self._ends, self._rules, self._counts, rows) if self._rules else []

    def commit(
        self,
        sums: list[tf.Tensor],
        whole: tuple[tf.Tensor, tf.Tensor],
        parts: int,
        changed: Sequence[keras.Variable],
    ) -> None:
        """Write the metrics after a batch.

        Args:
            sums: What `changes` returned, summed over the replicas.
            whole: How many rows the replicas had, and how many replicas had rows.
            parts: Into how many shares and microbatches a batch is divided.
            changed: The variables that calls of layers have changed in this batch.

        Raises:
            ModelError: A metric is not had from what the parts of a batch give.
        """
        if not self._rules:
            return
        chained = [v for v, rule in zip(self._state.variables, self._rules, strict=True) if rule is Rule.CHAIN]
        updated = self._state.changed(self._ends)
        for metric in self._metrics:
            mine = [v for v in metric.variables if any(v is each for each in updated)]
            if any(v is each for v in mine for each in changed):
                raise ModelError(
                    f"Metric {metric.name!r} is updated in a layer's call and in compute_loss. Use a metric for each."
                )
            if parts > 1 and any(v is each for v in mine for each in chained):
                way_out = 'Update it in compute_metrics, or pass loss_reduction="global" to kparallel.wrap.'
                raise refuse_divided(metric, "compute_loss", way_out)
        self._state.commit(self._start, self._ends, self._rules, sums, whole, 0)

    def _called(self, state: list[tf.Tensor], arguments: list[Any]) -> tuple[Any, End]:
        return own_loss(self._model, arguments, self._training, list(zip(self._state.variables, state, strict=True)))

    def _found(self, arguments: list[Any]) -> list[Rule]:
        """Find out how the parts of a batch go together in each variable."""
        added: set[int] = set()

        def updates(_: Any, state: Any, inputs: Any, masks: Any) -> tuple[list[Any], list[Any], list[Any]]:
            with noting_sums(self._metrics, added):
                return state, list(self._called(state, inputs)[1]), []

        found = dependences(updates, ([], self._start, arguments, []), [False] * len(self._start))
        ways = zip(self._state.variables, found, strict=True)
        return [RULES[Dependence.SUM if id(variable) in added else way] for variable, way in ways]
