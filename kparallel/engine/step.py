"""One step of one replica: forward and backward passes, all-reduce, update and report."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import local_updates
from kparallel.data.share import RowCounts, Share, split_sizes, take_share
from kparallel.engine.all_reduce import Sums, all_reduce, all_reduce_state, gradients_of
from kparallel.engine.colocate import colocate_with_inputs
from kparallel.engine.commit import commit
from kparallel.engine.coupling import Coupling
from kparallel.engine.denominators import rows_of_batch
from kparallel.engine.forward_backward import ForwardBackward
from kparallel.engine.gather_kinds import Kinds
from kparallel.engine.loss_stage import LossStage
from kparallel.engine.optimizer_update import OptimizerUpdate
from kparallel.engine.overwritten import overwritten
from kparallel.engine.placement import Placement
from kparallel.engine.regularization import add_regularization
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.report import Metrics, Report, StepReport, gathered
from kparallel.engine.sharded_update import ShardedUpdate
from kparallel.engine.shared_passes import LocalResult, SharedPasses
from kparallel.engine.sparse_gradients import scales_and_adds
from kparallel.engine.stage_function import StageFunctions, is_function
from kparallel.engine.update_function import UpdateFunction
from kparallel.engine.workers_update import WorkersUpdate
from kparallel.loss.overridden import overrides_compute_loss
from kparallel.planning.plan import Plan
from kparallel.stage.pipeline import Pipeline

__all__: list[str] = []


class Step:
    """The step of one replica on its share of a batch. Call its methods in the replica's context.

    ```text
    share ─► forward and backward ─► add penalties ─► all-reduce ─► commit state ─► update ─► report
             (ForwardBackward)       on weights       over the      that layers     the
                                                      replicas      assigned        weights
    ```

    Args:
        model: The compiled and built model.
        pipeline: Its stages.
        plan: The plan of the model.
        placement: The devices of the replicas, and their communicators.
        loss_reduction: The meaning of a loss that returns a scalar: `"mean"`, `"sum"` or `"global"`.
        jit: True compiles stages and updates with XLA, False nothing, None the updates of large stages only.
        owners: By the id of a weight, the replica that updates it; default each replica updates its own copies.
        functions: Makes the functions that call the stages; default `stage_function`.
    """

    def __init__(
        self,
        model: keras.Model,
        pipeline: Pipeline,
        plan: Plan,
        placement: Placement,
        loss_reduction: str,
        jit: bool | None,
        owners: Mapping[int, int] | None = None,
        functions: StageFunctions | None = None,
    ) -> None:
        self._model = model
        self._pipeline = pipeline
        self._plan = plan
        self._placement = placement
        self._is_first = True  # Until the first training step is traced.
        layers = [layer for stage in pipeline.stages for layer in stage.layers]
        # An empty share gets a padding row, because few layers accept an empty batch. Synchronized BatchNorm counts the
        # rows itself, so it must see none.
        self._pad = not any(getattr(layer, "synchronized", False) for layer in layers)
        coupling = Coupling(model, loss_reduction, placement.replicas * plan.microbatches)
        # An XLA program runs on one device, and a model whose layers are placed one by one has several.
        jit = False if plan.placed else jit
        self._passes = ForwardBackward(model, pipeline, plan, coupling, bool(jit), functions)
        self._kinds = Kinds(pipeline, self._passes.train_functions, plan.microbatches, placement.replicas)
        self._metrics = Metrics(model, placement.replicas)
        self._shares = self._may_share(jit)
        self._shared_passes = SharedPasses(self._local)
        self._optimizer = OptimizerUpdate(getattr(model, "optimizer", None), jit)
        self._update_function = UpdateFunction(getattr(model, "optimizer", None))
        self._owners = owners
        over_workers = owners is not None and not placement.group.is_single
        self._workers_update = (
            WorkersUpdate(self._optimizer, model.optimizer, owners, placement, plan.shard or "optimizer")
            if owners and over_workers
            else None
        )

    def _may_share(self, jit: bool | None) -> bool:
        """Tell whether all replicas may run their passes by one function.

        Each is one action forward and one backward on one device. A worker of a cluster seldom has several replicas.
        Metrics and losses of the user's own take more than sums from the passes.
        """
        plan, placement = self._plan, self._placement
        whole = len(self._pipeline.stages) == plan.microbatches == 1 and not plan.placed and not jit
        held = plan.shard != "weights"  # Else an action is given its weights when it begins.
        alike = placement.replicas > 1 and placement.group.is_single and all(map(is_function, self._pipeline.stages))
        return whole and held and alike and self._metrics.may_add_up and not overrides_compute_loss(self._model)

    def train(self, data: Any, counts: RowCounts) -> StepReport:
        """Run a training step.

        Args:
            data: An element of the dataset: the whole batch, or this replica's part of it.
            counts: Its number of rows.
        """
        replica, share = self._replica(), self._take(data, counts)
        self._warn_at_first(counts)
        # The sum of the rows' weights, by which a loss is divided, the replicas agree on before their backward passes.
        shares = self._shares and share.sample_weight is None and share.whole is not None
        local = self._shared_passes(replica, share) if shares else self._local(replica, share)
        # From here on every replica launches the same collectives in the same order.
        result, gradients = local.result, local.gradients
        dense = scales_and_adds(self._model.optimizer) and bool(gradients)
        sums = all_reduce(replica, share, result, gradients, local.report, dense, self._owners)
        # Weights that layers assigned are written first: the optimizer's update starts from them.
        commit(replica, share, result, sums, local.loss_state)
        self._update(replica, sums.gradients | overwritten(replica, share, result))
        return self._report(replica, share, local.outputs, sums)

    def _local(self, replica: Replica, share: Share) -> LocalResult:
        """Run a replica's passes, and return what it gives to the all-reduce."""
        result, losses = self._passes.run(replica, share, training=True)
        result, penalties = self._with_penalties(replica, share, result)
        if not losses.terms.of_one_microbatch() and not penalties:
            raise ValueError("No loss to compute. Pass `loss=` to compile(), or call add_loss() in a layer.")
        # For such an optimizer slices of one index may be summed, so their kinds need not be found.
        linear = scales_and_adds(self._model.optimizer)
        gradients = gradients_of(replica, result, self._kinds.sorter(result, share, linear))
        report = self._local_report(replica, share, losses, penalties)
        # Sums of metrics are part of the report; other metrics need the rows.
        outputs = None if self._metrics.add_up(losses.joined()) else losses.joined
        loss_state = losses.loss_state if overrides_compute_loss(self._model) else None
        return LocalResult(result, gradients, report, outputs, loss_state)

    def dry_run(self, data: Any, counts: RowCounts, training: bool = True) -> tuple[ReplicaResult, Report]:
        """Return what this replica gives to the all-reduce of `train` or `test`, and write nothing."""
        replica, share = self._replica(), self._take(data, counts)
        result, losses = self._passes.run(replica, share, training=training)
        result, penalties = self._with_penalties(replica, share, result)
        return result, self._local_report(replica, share, losses, penalties)

    def test(self, data: Any, counts: RowCounts) -> StepReport:
        """Run an evaluation step; arguments as of `train`."""
        replica, share = self._replica(), self._take(data, counts)
        result, losses = self._passes.run(replica, share, training=False)
        result, penalties = self._with_penalties(replica, share, result)
        # No gradients: only the report and the changes of state travel.
        sums = all_reduce(replica, share, result, {}, self._local_report(replica, share, losses, penalties))
        commit(replica, share, result, sums, losses.loss_state)
        return self._report(replica, share, losses.joined, sums)

    def predict(self, data: Any, counts: RowCounts) -> Any:
        """Return the outputs of all rows of the batch; arguments as of `train`."""
        replica, share = self._replica(), self._take(data, counts)
        result, outputs = self._passes.predict(replica, share)
        commit(replica, share, result, all_reduce_state(replica, share, result, Report.of(share, [], [], [])))
        return gathered(outputs, share, replica)

    def dry_predict(self, data: Any, counts: RowCounts) -> Any:
        """Return this replica's outputs as `predict` does, and write nothing."""
        replica, share = self._replica(), self._take(data, counts)
        return self._passes.predict(replica, share)[1]

    def _replica(self) -> Replica:
        return Replica.present(self._pipeline, self._placement, self._plan.microbatches)

    def _take(self, data: Any, counts: RowCounts) -> Share:
        placement = self._placement
        # index      among the replicas of all workers: it says which rows are taken
        # local      among those of this process: it says which device
        index = placement.communicators[-1].replica_index
        return take_share(data, counts, index - placement.first_replica, index, placement.replicas, pad=self._pad)

    def _warn_at_first(self, counts: RowCounts) -> None:
        """Warn of a first batch that leaves microbatches empty, in a replica's largest share, which is the first's."""
        number, is_first, self._is_first = self._plan.microbatches, self._is_first, False
        counted = counts.rows
        rows = counted[0] if isinstance(counted, tuple) else split_sizes(counted, self._placement.replicas)[0]
        if is_first and number > 1 and rows < number:
            warnings.warn(
                f"The first batch gives a replica {rows} rows, which {number} microbatches cannot share: "
                f"{number - rows} stay empty and devices idle. Use larger batches, or say microbatches={max(rows, 1)}.",
                stacklevel=2,
            )

    def _with_penalties(
        self, replica: Replica, share: Share, result: ReplicaResult
    ) -> tuple[ReplicaResult, list[tf.Tensor]]:
        """Add the gradients of the regularizers, weighted by this replica's fraction of the rows.

        The fractions sum to 1, so a penalty counts once. An overridden `compute_loss` counts penalties itself.
        """
        if overrides_compute_loss(self._model):
            return result, []
        rows = tf.constant(float(share.count), tf.float64)
        return add_regularization(replica, result, lambda: rows / rows_of_batch(replica, share), self._passes.scaled)

    def _local_report(self, replica: Replica, share: Share, losses: LossStage, penalties: list[tf.Tensor]) -> Report:
        """Return this replica's summands of the losses, and its changes of the metrics."""
        losses.factors()  # Made before the scope "report" is entered: an all-reduce of statistics has its own scope.
        with tf.name_scope("report"), replica.on_last_device():
            metrics = self._metrics.changes(losses.joined(), share)
            return Report.of(share, losses.values() + penalties, metrics, losses.loss_state.changes(share.count))

    def _report(self, replica: Replica, share: Share, outputs: Callable[[], Any] | None, sums: Sums) -> StepReport:
        """Return the report of the whole batch."""
        report = sums.report
        with tf.name_scope("report"):
            with replica.on_last_device():
                terms = tf.stack(report.terms)
            batch = None if outputs is None else self._metrics.batch(outputs(), share, replica)
            return StepReport(report.rows, terms, report.metrics, batch)

    def _update(self, replica: Replica, gradients: dict[int, Any]) -> None:
        """Apply the optimizer to summed gradients, given by the id of their variable."""
        variables = self._model.trainable_variables
        if not variables:  # Keras's train_step warns in the same words.
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
            return
        # A variable without a gradient is passed too: Keras warns about it, or raises if there is none at all.
        listed = [gradients.get(id(variable)) for variable in variables]
        if self._workers_update is not None:
            with tf.name_scope("sharded_update"):
                self._workers_update.apply(listed, variables, replica)
            return
        if self._owners is not None:
            with tf.name_scope("sharded_update"):
                ShardedUpdate(self._optimizer, self._owners).apply(listed, variables)
            return
        with tf.name_scope("update"), local_updates(tf.distribute.get_strategy()):
            if self._apply_by_function(listed, variables, replica):
                return
            with colocate_with_inputs():
                self._optimizer.apply(listed, variables)

    def _apply_by_function(self, gradients: list[Any], variables: list[keras.Variable], replica: Replica) -> bool:
        """Apply the optimizer as a function that all replicas share, where one device has all variables."""
        if tf.executing_eagerly() or len(set(replica.devices)) > 1 or self._optimizer.compiles(gradients, variables):
            return False
        return self._update_function.apply(self._optimizer.apply_whole, gradients, variables, replica.devices[0])
