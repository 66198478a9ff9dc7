"""The forward and backward passes of one replica over its share of a batch, in the order of the plan's schedule."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.data.share import Share, microbatches
from kparallel.engine.coupling import Coupling, WholeBatchNeeded
from kparallel.engine.denominators import whole_batch_factors
from kparallel.engine.executor import Executor
from kparallel.engine.loss_function import loss_function
from kparallel.engine.loss_stage import Counted, Factors, LossStage, OutputStage, Predictions
from kparallel.engine.loss_state import LossState
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.split_function import SplitFunction
from kparallel.engine.stage_function import StageFunction, StageFunctions, is_function, stage_function
from kparallel.engine.stand_ins import StandIns, weights_come_from_workers
from kparallel.engine.term_table import WeightedTerm
from kparallel.loss.overridden import refuse_added
from kparallel.planning.plan import Plan
from kparallel.schedule import forward_only, gpipe, linear_order
from kparallel.schedule.action import BACKWARD, WEIGHT, Action
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.stage import Stage
from kparallel.stage.state import RowRange

__all__: list[str] = []


class ForwardBackward:
    """Runs the forward and backward passes of a model's stages.

    Args:
        model: The compiled and built model.
        pipeline: Its stages.
        plan: The plan: schedule, number of microbatches, recompute policy.
        coupling: Decides which losses need the whole batch.
        jit: Whether to compile the stages with XLA.
        functions: Makes the functions that call the stages; default `stage_function`.
    """

    def __init__(
        self,
        model: keras.Model,
        pipeline: Pipeline,
        plan: Plan,
        coupling: Coupling,
        jit: bool,
        functions: StageFunctions | None = None,
    ) -> None:
        self._model = model
        self._pipeline = pipeline
        self._plan = plan
        self._coupling = coupling
        self._lanes = plan.lanes
        # A stage that is called once gains nothing from being a function of its own.
        inline = len(pipeline.stages) == 1 and plan.microbatches == 1
        make = partial(stage_function, jit=jit, inline=inline) if functions is None else functions
        self.train_functions, self._test_functions = (
            [make(stage, training) for stage in pipeline.stages] for training in (True, False)
        )
        self._counts: bool | None = None  # Whether statistics can be counted beforehand; None until it is found.
        # Weights that are brought for each action are given anew to the backward pass, which a tape cannot take.
        self._renews = plan.shard == "weights"
        # Else traced only by an order that splits backward passes. Functions from elsewhere are not cut.
        self._splits = [self._split(stage, jit) if functions is None else None for stage in pipeline.stages]
        # The results of an empty share count nowhere, but its actions keep their order. TensorFlow makes a NoOp of a
        # call that others only wait for, and looks for a program of this name if the call was to be compiled.
        compiled = jit and not inline and functions is None
        self._of_empty = ForwardBackward(model, pipeline, plan, coupling, False) if compiled else self

    def _split(self, stage: Stage, jit: bool) -> SplitFunction | None:
        received = [number not in self._pipeline.inputs for number in stage.reads]
        return SplitFunction(stage, received, jit, self._renews) if is_function(stage) else None

    def run(self, replica: Replica, share: Share, training: bool) -> tuple[ReplicaResult, LossStage]:
        """Compute the losses of a replica's share, and their gradients if training.

        Args:
            replica: The present replica.
            share: Its rows.
            training: Whether to run backward too.

        Returns:
            The result of the passes, and the losses.
        """
        passes = self if share.count else self._of_empty
        try:
            return passes._run(replica, share, training)
        except WholeBatchNeeded:
            # The graph of a loss exists only once the first outputs do. Nothing has been reduced or written yet, so the
            # passes are traced again, now with one loss of the whole share; the first trace is pruned.
            return passes._run(replica, share, training)

    def predict(self, replica: Replica, share: Share) -> tuple[ReplicaResult, Any]:
        """Return the result of the forward passes, and the outputs of a replica's rows."""
        parts = microbatches(share, self._plan.microbatches)
        outputs, passes = Predictions(len(self._pipeline.stages)), self if share.count else self._of_empty
        result = passes._execute(replica, parts, outputs, passes._test_functions, self._forward(), self._lanes)
        return result, outputs.joined()

    def _run(self, replica: Replica, share: Share, training: bool) -> tuple[ReplicaResult, LossStage]:
        parts = microbatches(share, self._plan.microbatches)
        order = self._forward_and_backward() if training else self._forward()
        number = len(parts)
        together = self._plan.microbatches > 1 and weights_come_from_workers(replica)
        if together:
            # A worker that has fewer microbatches launches the same broadcasts, so it runs the same order.
            number, order = self._plan.microbatches, self._without_early_weights(order, replica, share, training)
        # 1F1B runs backward on microbatch 0 before forward on the last one. Its factors need the statistics of all.
        counted = None
        if training and not _all_forward_first(order, len(self._pipeline.stages) - 1, number):
            counted = self._count(StandIns(replica).replica if together else replica, share)
        losses = self._loss_stage(replica, share, parts, training, counted, number - len(parts))
        functions = self.train_functions if training else self._test_functions
        result = self._execute(replica, parts, losses, functions, order, self._lanes)
        # Whether layers call `add_loss` is known only once they have been called.
        refuse_added(self._model, losses.terms.added())
        return result, losses

    def _without_early_weights(
        self, order: Sequence[Action], replica: Replica, share: Share, training: bool
    ) -> Sequence[Action]:
        """Return an order for which nothing is counted before the passes that depends on weights of other workers.

        Raises:
            WholeBatchNeeded: A loss needs the whole batch. It is found here, before a weight has been sent for it.
        """
        if self._coupling.whole or self._may_count(replica, share) or not training:
            return order
        return self._gpipe()

    def _may_count(self, replica: Replica, share: Share) -> bool:
        """Tell whether statistics can be counted without the weights that other workers hold.

        Found once, from a pass that is traced and never run: the graph of a model is the same for any number of rows.
        """
        if self._counts is None:

            def count() -> None:
                stand_ins = StandIns(replica)
                counted = self._count(stand_ins.replica, share)
                self._counts = not stand_ins.are_needed(counted.statistics)

            tf.function(count, autograph=False).get_concrete_function()
        return bool(self._counts)

    def _count(self, replica: Replica, share: Share) -> Counted:
        """Return this replica's statistics before its passes run.

        This traces a forward pass over the whole share. TensorFlow prunes every operation that no statistic depends on,
        so that seldom more than masks and shapes is computed.
        """
        losses = self._loss_stage(replica, share, [share], False, None)
        # Inline and without XLA: in the step's own graph operations can be pruned one by one.
        functions = [stage_function(stage, True, jit=False, inline=True) for stage in self._pipeline.stages]
        order = [action for action in self._forward() if action.microbatch == 0]
        # A lane for each stage: no action waits for another one, which then could not be pruned.
        lanes = range(len(self._pipeline.stages))
        with tf.name_scope("count"):
            self._execute(replica, [share], losses, functions, order, lanes)
        return losses.count()

    def _loss_stage(
        self,
        replica: Replica,
        share: Share,
        parts: list[Share],
        training: bool,
        counted: Counted | None,
        missing: int = 0,
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

        all_rows = share if coupled and len(parts) + missing > 1 else None
        return LossStage(
            self._pipeline, replica.devices[-1], function, parts, factors, training, all_rows, counted, state, missing
        )

    def scaled(self, factor: tf.Tensor) -> tf.Tensor:
        """Return a factor times the optimizer's loss scale."""
        optimizer = self._model.optimizer
        return factor if optimizer is None else optimizer.scale_loss(factor)

    def _execute(
        self,
        replica: Replica,
        parts: list[Share],
        outputs: OutputStage,
        functions: Sequence[StageFunction],
        order: Sequence[Action],
        lanes: Sequence[int],
    ) -> ReplicaResult:
        ranges = [RowRange(part.first, part.count, part.whole) for part in parts]
        keeps_tape = _keeps_tape(self._plan.recompute, len(parts))
        splits = self._splits if self._renews or any(action.kind == WEIGHT for action in order) else ()
        executor = Executor(replica, functions, lanes, ranges, outputs, keeps_tape, splits)
        return executor.run(order, [part.x for part in parts])

    def _forward(self) -> Sequence[Action]:
        return linear_order(forward_only(len(self._pipeline.stages), self._plan.microbatches))

    def _forward_and_backward(self) -> Sequence[Action]:
        if self._coupling.whole:  # A loss of all rows needs all outputs.
            return self._gpipe()
        return linear_order(gpipe(1, 1) if self._plan.placed else self._plan.programs())

    def _gpipe(self) -> Sequence[Action]:
        return linear_order(gpipe(len(self._pipeline.stages), self._plan.microbatches))


def _keeps_tape(recompute: str, microbatches: int) -> Callable[[int, int], bool]:
    """Return a predicate: does (stage, microbatch) keep its tape? If not, the backward pass recomputes it."""
    if recompute == "never":
        return lambda s, m: True
    return lambda s, m: recompute == "except_last" and m == microbatches - 1


def _all_forward_first(order: Sequence[Action], last: int, microbatches: int) -> bool:
    """Return whether the last stage runs forward on every microbatch before it first runs backward."""
    kinds = [action.kind for action in order if action.stage == last and action.microbatch < microbatches]
    return kinds.index(BACKWARD) == microbatches
