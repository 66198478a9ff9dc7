"""The forward and backward passes of one replica over its share of a batch, in the order of the plan's schedule."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.data.share import Share, microbatches
from kparallel.engine.coupling import Coupling, WholeBatchNeeded
from kparallel.engine.denominators import whole_batch_factors
from kparallel.engine.executor import Executor
from kparallel.engine.loss_function import loss_function
from kparallel.engine.loss_stage import Factors, LossStage, OutputStage, Predictions
from kparallel.engine.loss_state import LossState
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.stage_function import StageFunction, stage_function
from kparallel.engine.term_table import WeightedTerm
from kparallel.loss.overridden import refuse_added
from kparallel.planning.plan import Plan
from kparallel.schedule import forward_only, gpipe, linear_order
from kparallel.schedule.action import BACKWARD, Action
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.state import RowRange

__all__: list[str] = []


class ForwardBackward:
    """Runs the passes of a model's stages.

    Args:
        model: The compiled and built model.
        pipeline: Its stages.
        plan: Has the schedule, the number of microbatches and what is recomputed.
        coupling: Tells which losses must see the whole batch.
        jit: Whether to compile the stages with XLA.
    """

    def __init__(self, model: keras.Model, pipeline: Pipeline, plan: Plan, coupling: Coupling, jit: bool) -> None:
        self._model = model
        self._pipeline = pipeline
        self._plan = plan
        self._coupling = coupling
        self._lanes = (0,) if pipeline.placed else plan.lanes
        inline = len(pipeline.stages) == 1 and plan.microbatches == 1
        jit = jit and not pipeline.placed
        self.train_functions, self._test_functions = (
            [stage_function(stage, training, jit=jit, inline=inline) for stage in pipeline.stages]
            for training in (True, False)
        )

    def run(self, replica: Replica, share: Share, training: bool) -> tuple[ReplicaResult, LossStage]:
        """Compute the losses of a replica's share, and to train their gradients.

        Args:
            replica: This one.
            share: Its rows.
            training: Whether to run backward too.

        Returns:
            What the passes leave, and the losses.
        """
        try:
            return self._run(replica, share, training)
        except WholeBatchNeeded:  # Known once the first outputs are there; nothing has been reduced or written.
            return self._run(replica, share, training)

    def predict(self, replica: Replica, share: Share) -> tuple[ReplicaResult, Any]:
        """Return what the forward passes leave, and the outputs of a replica's rows."""
        parts = microbatches(share, self._plan.microbatches)
        outputs = Predictions(len(self._pipeline.stages))
        return self._execute(replica, parts, outputs, self._test_functions, self._forward()), outputs.joined()

    def _run(self, replica: Replica, share: Share, training: bool) -> tuple[ReplicaResult, LossStage]:
        parts = microbatches(share, self._plan.microbatches)
        order = self._forward_and_backward() if training else self._forward()
        statistics = None
        if training and len(parts) > 1 and not _all_forward_first(order, len(self._pipeline.stages) - 1, len(parts)):
            statistics = self._count(replica, share)
        losses = self._loss_stage(replica, share, parts, training, statistics)
        functions = self.train_functions if training else self._test_functions
        result = self._execute(replica, parts, losses, functions, order)
        refuse_added(self._model, losses.terms.added())
        return result, losses

    def _count(self, replica: Replica, share: Share) -> list[tf.Tensor]:
        """Return this replica's statistics before its passes.

        One forward pass in the step's own graph, of which TensorFlow drops all that no count depends on.
        """
        losses = self._loss_stage(replica, share, [share], False, None)
        functions = [stage_function(stage, True, jit=False, inline=True) for stage in self._pipeline.stages]
        order = [action for action in self._forward() if action.microbatch == 0]
        with tf.name_scope("count"):
            self._execute(replica, [share], losses, functions, order)
        return losses.statistics()

    def _loss_stage(
        self, replica: Replica, share: Share, parts: list[Share], training: bool, statistics: list[tf.Tensor] | None
    ) -> LossStage:
        coupled = self._coupling.whole
        state = LossState(self._model, training, replica.index)
        function = loss_function(
            self._model,
            replica.last,
            replica.replicas,
            self._coupling,
            coupled or self._plan.microbatches == 1,
            training,
            state,
        )

        def factors(terms: list[WeightedTerm], statistics: list[tf.Tensor]) -> Factors:
            return whole_batch_factors(replica, share, terms, statistics, self.scaled)

        whole = share if coupled and len(parts) > 1 else None
        return LossStage(
            self._pipeline, replica.devices[-1], function, parts, factors, training, whole, statistics, state
        )

    def scaled(self, factor: tf.Tensor) -> tf.Tensor:
        """Apply the optimizer's loss scale."""
        optimizer = self._model.optimizer
        return factor if optimizer is None else optimizer.scale_loss(factor)

    def _execute(
        self,
        replica: Replica,
        parts: list[Share],
        outputs: OutputStage,
        functions: Sequence[StageFunction],
        order: Sequence[Action],
    ) -> ReplicaResult:
        executor = Executor(
            self._pipeline,
            # A stage whose layers are placed one by one starts on the first device.
            replica.devices[: len(self._pipeline.stages)],
            functions,
            self._lanes,
            [RowRange(part.first, part.count, part.whole) for part in parts],
            outputs,
            _keeps_tape(self._plan.recompute, len(parts)),
            replica.index,
        )
        return executor.run(order, [part.x for part in parts])

    def _forward(self) -> Sequence[Action]:
        return linear_order(forward_only(len(self._pipeline.stages), self._plan.microbatches))

    def _forward_and_backward(self) -> Sequence[Action]:
        if self._coupling.whole:  # Such a loss waits for the last row's outputs.
            return linear_order(gpipe(len(self._pipeline.stages), self._plan.microbatches))
        return linear_order(gpipe(1, 1) if self._pipeline.placed else self._plan.programs())


def _keeps_tape(recompute: str, microbatches: int) -> Callable[[int, int], bool]:
    """Return a predicate: does (stage, microbatch) keep its tape? Where it does not, its forward pass runs again."""
    if recompute == "never":
        return lambda s, m: True
    return lambda s, m: recompute == "except_last" and m == microbatches - 1


def _all_forward_first(order: Sequence[Action], last: int, microbatches: int) -> bool:
    """Tell whether the last stage has run forward on every microbatch before it first runs backward."""
    kinds = [action.kind for action in order if action.stage == last and action.microbatch < microbatches]
    return kinds.index(BACKWARD) == microbatches
