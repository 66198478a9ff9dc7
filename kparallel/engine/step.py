"""One step of one replica: forward, backward, reduction, update, and what is to be reported."""

import warnings
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import local_updates
from kparallel.compat.losses import compiled_metrics
from kparallel.compat.tensors import keras_logits
from kparallel.data.share import RowCounts, Rows, microbatches, split_sizes, take_share
from kparallel.engine.all_reduce import Report, Sums, counted, gradients_of, reduced, reduced_state, zeroed
from kparallel.engine.colocate import colocate_with_inputs
from kparallel.engine.commit import changed_in, check_assigned, commit, commit_rows
from kparallel.engine.coupling import Coupling, WholeBatchNeeded
from kparallel.engine.executor import Executor, StageFunction
from kparallel.engine.gather_kinds import Kinds
from kparallel.engine.loss_function import loss_function
from kparallel.engine.loss_stage import LossStage, join
from kparallel.engine.loss_state import LossState
from kparallel.engine.optimizer_update import OptimizerUpdate
from kparallel.engine.overwritten import overwritten
from kparallel.engine.passes import all_forward_first, tape_keeper
from kparallel.engine.placement import Placement
from kparallel.engine.regularization import penalties
from kparallel.engine.sparse_gradients import scales_and_adds
from kparallel.engine.stage_function import stage_function
from kparallel.errors import PlanError
from kparallel.loss.overridden import overrides_compute_loss, refuse_added
from kparallel.loss.term import LossWeight, Term, as_scalar
from kparallel.metric.additive import is_additive, state_change
from kparallel.planning.plan import Plan
from kparallel.schedule import forward_only, gpipe, linear_order
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.state import RowRange

__all__: list[str] = []


class Step:
    """The work of one replica on its share of a batch.

    Args:
        model: The compiled and built model.
        pipeline: Its stages.
        plan: The decision.
        placement: Where replicas run.
        loss_reduction: What a loss means that returns a scalar.
        jit: True compiles stages and updates with XLA, False nothing, None what gains by it: updates of large stages.
    """

    def __init__(
        self,
        model: keras.Model,
        pipeline: Pipeline,
        plan: Plan,
        placement: Placement,
        loss_reduction: str,
        jit: bool | None,
    ) -> None:
        self._model = model
        self._pipeline = pipeline
        self._plan = plan
        self._placement = placement
        self._last = placement.communicators[-1]
        self._parts = placement.replicas * plan.microbatches
        layers = [layer for stage in pipeline.stages for layer in stage.layers]
        # Synchronized BatchNorm counts rows itself, so an empty share must stay empty.
        self._pad = not any(getattr(layer, "synchronized", False) for layer in layers)
        metrics = compiled_metrics(model)
        self._own_metrics = getattr(model.compute_metrics, "__func__", None) is not keras.Model.compute_metrics
        self.add_metrics = not self._own_metrics and (
            metrics is None or all(is_additive(metric) for metric in metrics.metrics)
        )
        self._first = True
        self._coupling = Coupling(model, loss_reduction, self._parts)
        self._lanes = (0,) if pipeline.placed else plan.lanes
        self._updater = OptimizerUpdate(getattr(model, "optimizer", None), False if pipeline.placed else jit)
        inline = len(pipeline.stages) == 1 and plan.microbatches == 1
        self._train_calls = [
            stage_function(stage, True, jit=bool(jit) and not pipeline.placed, inline=inline)
            for stage in pipeline.stages
        ]
        self._kinds = Kinds(pipeline, self._train_calls, plan.microbatches, placement.replicas)
        self._test_calls = [
            stage_function(stage, False, jit=bool(jit) and not pipeline.placed, inline=inline)
            for stage in pipeline.stages
        ]

    def train(self, data: Any, counts: RowCounts) -> dict[str, Any]:
        """Run a training step and return what to report.

        Raises:
            PlanError: The first batch has fewer rows for a replica than there are microbatches.
        """
        rows = self._take(data, counts)
        self._check_first(counts)
        executor, loss_stage = self._run(rows, training=True)
        charged = self._penalties(executor, rows)
        if not loss_stage.pairs(executor.added) and not charged:
            raise ValueError("No loss to compute. Pass `loss=` to compile(), or call add_loss() in a layer.")
        sums = self._reduced(executor, loss_stage, rows, charged, self._gradients(executor, rows))
        self._commit(executor, rows, sums, loss_stage.loss_state)
        if self._model.trainable_variables:
            self._update(sums.gradients | self._overwritten(executor, rows))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        with tf.name_scope("report"):
            return self._report(loss_stage, rows, sums)

    def test(self, data: Any, counts: RowCounts) -> dict[str, Any]:
        """Run an evaluation step and return what to report."""
        rows = self._take(data, counts)
        executor, loss_stage = self._run(rows, training=False)
        sums = self._reduced(executor, loss_stage, rows, self._penalties(executor, rows), {})
        self._commit(executor, rows, sums, loss_stage.loss_state)
        return self._report(loss_stage, rows, sums)

    def predict(self, data: Any, counts: RowCounts) -> Any:
        """Return the outputs of this replica's rows."""
        rows = self._take(data, counts)
        parts = microbatches(rows, self._plan.microbatches)
        executor = self._executor(parts, None, self._test_calls)
        executor.run(self._order(training=False))
        outputs = [executor.outputs(m) for m in range(len(parts))]
        report = Report(*counted(rows), [], [], [])
        self._commit(
            executor, rows, reduced_state(self._pipeline, self._placement, self._row(), executor, rows, report)
        )
        return self._gathered(join(outputs), rows)

    def _take(self, data: Any, counts: RowCounts) -> Rows:
        index, placement = self._last.replica_index, self._placement
        return take_share(data, counts, index - placement.first_replica, index, placement.replicas, pad=self._pad)

    def _check_first(self, counts: RowCounts) -> None:
        """Refuse a first batch that leaves microbatches empty; a last one may.

        The first replica's share decides, the largest, so that all workers of a cluster decide alike.
        """
        number, first, self._first = self._plan.microbatches, self._first, False
        share = (
            counts.rows[0] if isinstance(counts.rows, tuple) else split_sizes(counts.rows, self._placement.replicas)[0]
        )
        if first and number > 1 and share < number:
            raise PlanError(
                f"Expected at most {share} microbatches for a first batch that gives a replica {share} rows, "
                f"received {number}. Use larger batches, or say microbatches={max(share, 1)}."
            )

    def _run(self, rows: Rows, training: bool) -> tuple[Executor, LossStage]:
        try:
            return self._ran(rows, training)
        except WholeBatchNeeded:  # Known once the first outputs are there; nothing has been reduced or written.
            return self._ran(rows, training)

    def _ran(self, rows: Rows, training: bool) -> tuple[Executor, LossStage]:
        parts = microbatches(rows, self._plan.microbatches)
        order = self._order(training)
        coupled = self._coupling.whole
        at_once = coupled or self._plan.microbatches == 1

        def loss_stage_of(parts: list[Rows], counted: list[tf.Tensor] | None, training: bool) -> LossStage:
            loss_state = LossState(self._model, training, self._last.replica_index)
            losses = loss_function(
                self._model, self._last, self._placement.replicas, self._coupling, at_once, training, loss_state
            )
            whole = rows if coupled and len(parts) > 1 else None
            device = self._row()[-1]
            return LossStage(
                self._pipeline, device, losses, parts, self._factors(rows), training, whole, counted, loss_state
            )

        counted = None
        if training and len(parts) > 1 and not all_forward_first(order, len(self._pipeline.stages) - 1, len(parts)):
            # One forward pass in the step's own graph, where TensorFlow drops all that no count depends on.
            counting = loss_stage_of([rows], None, False)
            inline = [stage_function(stage, True, jit=False, inline=True) for stage in self._pipeline.stages]
            ahead = self._executor([rows], counting, inline)
            with tf.name_scope("count"):
                ahead.run([action for action in self._order(training=False) if action.microbatch == 0])
            counted = counting.statistics(ahead.added)
        loss_stage = loss_stage_of(parts, counted, training)
        executor = self._executor(parts, loss_stage, self._train_calls if training else self._test_calls)
        executor.run(order)
        refuse_added(self._model, [term for stage in executor.added for term in stage[0]])
        return executor, loss_stage

    def _executor(self, parts: list[Rows], loss_stage: LossStage | None, calls: list[StageFunction]) -> Executor:
        row_ranges = [RowRange(part.first, part.count, part.whole) for part in parts]
        keeps = tape_keeper(self._plan.recompute, len(parts))
        executor = Executor(
            self._pipeline, self._devices(), calls, self._lanes, row_ranges, loss_stage, keeps, self._last.replica_index
        )
        for m, part in enumerate(parts):
            executor.feed(m, part.x)
        return executor

    def _order(self, training: bool) -> Any:
        stages, number = len(self._pipeline.stages), self._plan.microbatches
        if not training:
            return linear_order(forward_only(stages, number))
        if self._coupling.whole:  # Such a loss waits for the last row's outputs.
            return linear_order(gpipe(stages, number))
        return linear_order(gpipe(1, 1) if self._pipeline.placed else self._plan.programs())

    def _devices(self) -> tuple[str, ...]:
        """Return one device for each stage; a stage whose layers are placed one by one starts on the first."""
        return self._row()[: len(self._pipeline.stages)]

    def _row(self) -> tuple[str, ...]:
        return self._placement.rows[self._last.replica_index - self._placement.first_replica]

    def _factors(self, rows: Rows) -> Any:
        """Return what sums local statistics over the replicas and turns them into factors."""

        def factors(
            pairs: list[tuple[LossWeight, Term]], statistics: list[tf.Tensor]
        ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            total = iter(self._totals(statistics, rows, all(term.by_rows for _, term in pairs)))
            gradient, report = [], []
            for weight, term in pairs:
                own, reported = term.factors([next(total) for _ in term.statistics])
                scale = as_scalar(weight, tf.float64)
                gradient.append(self._scaled(own * scale))
                report.append(reported)
            return gradient, report

        return factors

    def _totals(self, statistics: list[tf.Tensor], rows: Rows, by_rows: bool) -> list[tf.Tensor]:
        """Sum statistics over the replicas; none is asked where the rows tell, so that no replica waits."""
        local = [tf.cast(s, tf.float64) for s in statistics]
        if by_rows and rows.whole is not None:
            return [s / float(rows.count) * float(rows.whole) if rows.count else s for s in local]
        if not rows.count:
            local = [tf.zeros((), tf.float64) for _ in local]
        with tf.name_scope(f"reduce{len(self._pipeline.stages) - 1}"):
            return tf.unstack(self._last.all_reduce([tf.stack(local)])[0]) if local else []

    def _scaled(self, factor: tf.Tensor) -> tf.Tensor:
        """Apply the optimizer's loss scale."""
        optimizer = self._model.optimizer
        return factor if optimizer is None else optimizer.scale_loss(factor)

    def _penalties(self, executor: Executor, rows: Rows) -> list[tf.Tensor]:
        """Return the penalties on weights, counted by this replica's part of the rows; their gradients are added.

        The part of the rows makes them count once over all replicas.
        """
        if overrides_compute_loss(self._model):
            return []
        part = tf.constant(float(rows.count), tf.float64)
        return penalties(self._pipeline, self._row(), executor, lambda: part / self._whole(rows), self._scaled)

    def _whole(self, rows: Rows) -> tf.Tensor:
        """Return the rows of the whole batch."""
        if rows.whole is not None:
            return tf.constant(float(rows.whole), tf.float64)
        return self._last.all_reduce([tf.constant(float(rows.count), tf.float64)])[0]

    def _update(self, gradients: dict[int, Any]) -> None:
        variables = self._model.trainable_variables
        with tf.name_scope("update"), local_updates(tf.distribute.get_strategy()), colocate_with_inputs():
            self._updater.apply([gradients.get(id(variable)) for variable in variables], variables)

    def _overwritten(self, executor: Executor, rows: Rows) -> dict[int, tf.Tensor]:
        return overwritten(self._pipeline, self._placement, self._row(), executor, rows, self._parts)

    def _reduced(
        self,
        executor: Executor,
        loss_stage: LossStage,
        rows: Rows,
        charged: list[tf.Tensor],
        gradients: dict[int, list[Any]],
    ) -> Sums:
        local = self._to_report(executor, loss_stage, rows, charged)
        dense = bool(gradients) and scales_and_adds(self._model.optimizer)
        return reduced(self._pipeline, self._placement, self._row(), executor, rows, gradients, local, dense)

    def _gradients(self, executor: Executor, rows: Rows) -> dict[int, list[Any]]:
        sort = self._kinds.sorter(executor, rows, scales_and_adds(self._model.optimizer))
        return gradients_of(self._pipeline, self._row(), executor, sort)

    def _to_report(self, executor: Executor, loss_stage: LossStage, rows: Rows, charged: list[tf.Tensor]) -> Report:
        """Return this replica's part of the losses and of the metrics' changes."""
        _, factors = loss_stage.resolve(executor.added)
        with tf.name_scope("report"), tf.device(self._row()[-1]):
            numerators = loss_stage.numerators(executor.added)
            terms = [n * factor for n, factor in zip(numerators, factors, strict=True)] + charged
            terms, metrics = (
                [zeroed(v, rows) for v in some] for some in (terms, self._metric_changes(loss_stage, rows))
            )
            return Report(*counted(rows), terms, metrics, loss_stage.loss_state.changes(rows.count))

    def _commit(self, executor: Executor, rows: Rows, sums: Sums, loss_state: LossState | None = None) -> None:
        """Write what the forward passes leave: before the optimizer's update, which starts from assigned weights."""
        check_assigned(self._pipeline, executor, self._parts)
        commit(self._pipeline, self._row(), executor, sums, self._last.replica_index)
        commit_rows(self._pipeline, self._placement, self._row(), executor, rows.count)
        if loss_state is not None:
            with tf.device(self._row()[-1]):
                whole = (sums.report.rows, sums.report.replicas)
                loss_state.commit(sums.report.loss_state, whole, self._parts, changed_in(self._pipeline, executor))

    def _report(self, loss_stage: LossStage, rows: Rows, sums: Sums) -> dict[str, Any]:
        """Return what to report of all replicas."""
        whole = sums.report
        with tf.device(self._row()[-1]):
            report: dict[str, Any] = {"rows": whole.rows, "terms": tf.stack(whole.terms), "metrics": whole.metrics}
        if not self.add_metrics:
            outputs = loss_stage.joined()
            logits = keras.tree.map_structure(keras_logits, outputs)
            inputs = rows.x if self._own_metrics else None  # Keras's own metrics do not read them.
            report["batch"] = self._gathered((inputs, rows.y, outputs, rows.sample_weight, logits), rows)
        return report

    def _gathered(self, structure: Any, rows: Rows) -> Any:
        """Return all replicas' rows of a structure, in order."""
        if self._placement.replicas == 1:
            return structure
        leaves = [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
        parts = iter(self._last.all_gather([leaf[: rows.count] for leaf in leaves]))
        return keras.tree.map_structure(lambda leaf: None if leaf is None else tf.concat(next(parts), 0), structure)

    def _metric_changes(self, loss_stage: LossStage, rows: Rows) -> list[tf.Tensor]:
        """Return by how much this replica's rows change the metrics' variables."""
        metrics = compiled_metrics(self._model)
        if not self.add_metrics or metrics is None or not metrics.variables:
            return []
        outputs = loss_stage.joined()
        if any(leaf.dtype.is_floating and leaf.shape.rank < 2 for leaf in keras.tree.flatten(outputs)):
            # Of one number a row Keras's metrics take the mean over the rows, and then count batches.
            self.add_metrics = False
            return []
        return state_change(metrics, rows.y, outputs, sample_weight=rows.sample_weight)
