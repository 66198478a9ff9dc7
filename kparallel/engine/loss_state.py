"""The state that an overridden `compute_loss` changes (metrics, seeds, counters) on each part of a batch."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.layers import own_metrics, seed_states
from kparallel.errors import ModelError
from kparallel.loss.overridden import overrides_compute_loss, own_loss, own_variables
from kparallel.metric.additive import noting_sums, refuse_divided
from kparallel.stage.dependence import Dependence
from kparallel.stage.state import RULES, End, Rule, State
from kparallel.stage.traced_dependence import dependences

__all__: list[str] = []


class LossState:
    """Calls `compute_loss` without side effects and records the state that it would change, for one replica and batch.

    Args:
        model: The model; without an overridden `compute_loss` there is no state to record.
        training: Keras's `training` argument.
        replica_index: Shifts the seeds, so that each replica draws random numbers of its own.
    """

    def __init__(self, model: keras.Model, training: bool, replica_index: int) -> None:
        self._model = model
        self._training = training
        self._replica_index = replica_index
        overridden = overrides_compute_loss(model)
        self._metrics = own_metrics([model]) if overridden else []
        self._state = State(own_variables(model) if overridden else [], seed_states(model), set(), set())
        self._start = self._state.read(replica_index)
        self._touched: set[int] = set()  # Ids of the variables that `compute_loss` read or assigned.
        self._ends: list[End] = []  # `[m][v]`, as in `ReplicaResult`.
        self._counts: list[int] = []  # `[m]`
        # `[v]`: found at the first call that changes something; all later calls change the same.
        self._rules: Sequence[Rule] = ()

    def loss(self, arguments: list[Any], count: int) -> Any:
        """Return the loss of some rows, and record the state after the call.

        Args:
            arguments: x, y, outputs and sample weights.
            count: The number of rows.
        """
        # Each microbatch starts from the state before the batch, except where its rule chains the calls.
        state = self._state.chain(self._start, self._ends[-1], self._rules) if self._rules else self._start
        value, end = self._called(state, arguments)
        if not self._ends and any(after is not None for after in end):
            self._rules = self._find_rules(arguments)
        self._ends.append(end)
        self._counts.append(count)
        return value

    def computed(self, arguments: list[Any]) -> Any:
        """Return the loss of some rows, and record nothing."""
        return self._called(self._start, arguments)[0]

    def changes(self, rows: int) -> list[tf.Tensor]:
        """Return this replica's changes of the variables that are summed over the replicas."""
        return self._state.changes(self._start, self._ends, self._rules, self._counts, rows) if self._rules else []

    def commit(
        self,
        sums: list[tf.Tensor],
        totals: tuple[tf.Tensor, tf.Tensor],
        parts: int,
        changed: Sequence[keras.Variable],
    ) -> None:
        """Write the state after a batch.

        Args:
            sums: The result of `changes`, summed over the replicas.
            totals: The number of rows of the batch, and of replicas that had rows: float64 scalars.
            parts: The number of parts of a batch: replicas times microbatches.
            changed: The variables that calls of layers have changed in this batch.

        Raises:
            ModelError: The state after the whole batch cannot be computed from the state after each part.
        """
        self._refuse_changed(changed)
        if not self._rules:
            return
        chained = [v for v, rule in zip(self._state.variables, self._rules, strict=True) if rule is Rule.CHAIN]
        updated = self._state.changed(self._ends)
        for metric in self._metrics:
            of_metric = [v for v in metric.variables if any(v is each for each in updated)]
            if parts > 1 and any(v is each for v in of_metric for each in chained):
                way_out = 'Update it in compute_metrics, or pass loss_reduction="global" to kparallel.wrap.'
                raise refuse_divided(metric, "compute_loss", way_out)
        paths = [v.path for v in chained if any(v is each for each in updated)]
        if parts > 1 and paths:
            raise ModelError(
                f"Variables {paths[:4]} are assigned in compute_loss, which sees a part of a batch alone, what is "
                'neither a sum nor a mean over the rows. Pass loss_reduction="global" to kparallel.wrap.'
            )
        self._state.commit(self._start, self._ends, self._rules, sums, totals, self._replica_index)

    def _refuse_changed(self, changed: Sequence[keras.Variable]) -> None:
        """Refuse a variable that a layer's call has changed in this batch: `compute_loss` saw its old value."""
        used = [v for v in changed if id(v) in self._touched]
        metric = next((m for m in self._metrics if any(v is each for v in m.variables for each in used)), None)
        if metric is not None:
            raise ModelError(
                f"Metric {metric.name!r} is updated in a layer's call and in compute_loss. Use a metric for each."
            )
        if used:
            raise ModelError(
                f"Variable {used[0].path!r} is changed in a layer's call and used in compute_loss, in one batch. Use a "
                "variable for each, or return what compute_loss needs as one more output."
            )

    def _called(self, state: list[tf.Tensor], arguments: list[Any]) -> tuple[Any, End]:
        values = list(zip(self._state.variables, state, strict=True))
        loss, end, touched = own_loss(self._model, arguments, self._training, values)
        self._touched |= touched
        return loss, end

    def _find_rules(self, arguments: list[Any]) -> list[Rule]:
        """Return the rule of each variable, from how its new value depends on the rows."""
        known = self._state.known
        added: set[int] = set()  # Ids of the variables that metrics of Keras's update by adding a sum over the rows.

        def updates(_: Any, state: Any, inputs: Any, masks: Any) -> tuple[list[Any], list[Any], list[Any]]:
            with noting_sums(self._metrics, added):
                end = self._called(state, inputs)[1]
            random = [value for value, rule in zip(state, known, strict=True) if rule is Rule.SEED]
            return state, list(end), random

        by_variable = dependences(updates, ([], self._start, arguments, []), [False] * len(self._start))
        cases = zip(self._state.variables, known, by_variable, strict=True)
        return [rule or RULES[Dependence.SUM if id(v) in added else dependence] for v, rule, dependence in cases]
