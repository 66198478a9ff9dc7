"""What a model's own `compute_loss` leaves, which sees a part of a batch at a time: metrics, seeds, counters."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.layers import own_metrics, seed_states
from kparallel.errors import ModelError
from kparallel.loss.overridden import overrides_compute_loss, own_loss, own_variables
from kparallel.metric.additive import noting_sums, refuse_divided
from kparallel.stage.dependence import Dependence, dependences
from kparallel.stage.state import RULES, End, Rule, State

__all__: list[str] = []


class LossState:
    """The state of one replica's batch.

    Args:
        model: Perhaps has a `compute_loss` of its own.
        training: As Keras means it.
        replica_index: Shifts the seeds, so that replicas draw apart.
    """

    def __init__(self, model: keras.Model, training: bool, replica_index: int) -> None:
        self._model = model
        self._training = training
        self._replica_index = replica_index
        own = overrides_compute_loss(model)
        self._metrics = own_metrics([model]) if own else []
        self._state = State(own_variables(model) if own else [], seed_states(model), set(), set())
        self._start = self._state.read(replica_index)
        self._touched: set[int] = set()
        self._ends: list[End] = []
        self._counts: list[int] = []
        self._rules: Sequence[Rule] = ()

    def loss(self, arguments: list[Any], count: int) -> Any:
        """Return the loss of some rows, and keep what it does to the state.

        Args:
            arguments: x, y, outputs and sample weights.
            count: How many rows.
        """
        state = self._state.chain(self._start, self._ends[-1], self._rules) if self._rules else self._start
        value, end = self._called(state, arguments)
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
        """Write the state after a batch.

        Args:
            sums: What `changes` returned, summed over the replicas.
            whole: How many rows the replicas had, and how many replicas had rows.
            parts: Into how many shares and microbatches a batch is divided.
            changed: The variables that calls of layers have changed in this batch.

        Raises:
            ModelError: What `compute_loss` changes is not had from what the parts of a batch give.
        """
        self._refuse_changed(changed)
        if not self._rules:
            return
        chained = [v for v, rule in zip(self._state.variables, self._rules, strict=True) if rule is Rule.CHAIN]
        updated = self._state.changed(self._ends)
        for metric in self._metrics:
            mine = [v for v in metric.variables if any(v is each for each in updated)]
            if parts > 1 and any(v is each for v in mine for each in chained):
                way_out = 'Update it in compute_metrics, or pass loss_reduction="global" to kparallel.wrap.'
                raise refuse_divided(metric, "compute_loss", way_out)
        paths = [v.path for v in chained if any(v is each for each in updated)]
        if parts > 1 and paths:
            raise ModelError(
                f"Variables {paths[:4]} are assigned in compute_loss, which sees a part of a batch alone, what is "
                'neither a sum nor a mean over the rows. Pass loss_reduction="global" to kparallel.wrap.'
            )
        self._state.commit(self._start, self._ends, self._rules, sums, whole, self._replica_index)

    def _refuse_changed(self, changed: Sequence[keras.Variable]) -> None:
        """Refuse what calls of layers have changed in this batch: here it has its value from before."""
        both = [v for v in changed if id(v) in self._touched]
        metric = next((m for m in self._metrics if any(v is each for v in m.variables for each in both)), None)
        if metric is not None:
            raise ModelError(
                f"Metric {metric.name!r} is updated in a layer's call and in compute_loss. Use a metric for each."
            )
        if both:
            raise ModelError(
                f"Variable {both[0].path!r} is changed in a layer's call and used in compute_loss, in one batch. Use a "
                "variable for each, or return what compute_loss needs as one more output."
            )

    def _called(self, state: list[tf.Tensor], arguments: list[Any]) -> tuple[Any, End]:
        values = list(zip(self._state.variables, state, strict=True))
        loss, end, touched = own_loss(self._model, arguments, self._training, values)
        self._touched |= touched
        return loss, end

    def _found(self, arguments: list[Any]) -> list[Rule]:
        """Find out how the parts of a batch go together in each variable."""
        known = self._state.known
        added: set[int] = set()

        def updates(_: Any, state: Any, inputs: Any, masks: Any) -> tuple[list[Any], list[Any], list[Any]]:
            with noting_sums(self._metrics, added):
                end = self._called(state, inputs)[1]
            random = [value for value, rule in zip(state, known, strict=True) if rule is Rule.SEED]
            return state, list(end), random

        found = dependences(updates, ([], self._start, arguments, []), [False] * len(self._start))
        ways = zip(self._state.variables, known, found, strict=True)
        return [rule or RULES[Dependence.SUM if id(v) in added else way] for v, rule, way in ways]
