"""A stage as a callable: Python that is traced inline, a `tf.function`, or an XLA program."""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kparallel.engine.shared_traces import SharedTraces
from kparallel.errors import PlanError
from kparallel.stage.stage import Forward, Stage
from kparallel.stage.value import Value, without_gradient

__all__: list[str] = []

StageFunction = Callable[[list[Any], list[Any], list[Value]], Forward]
StageFunctions = Callable[[Stage, bool], StageFunction]  # From a stage and Keras's `training` argument.


def stage_function(stage: Stage, training: bool, *, jit: bool, inline: bool) -> StageFunction:
    """Return the callable that runs a stage forward.

    Args:
        stage: The stage.
        training: Keras's `training` argument.
        jit: Whether to compile with XLA if every layer of the stage allows it.
        inline: Whether to trace an uncompiled stage into the step's own graph. It pays for a stage that is called once.

    Returns:
        A function from (weights, state, inputs) to `Forward`. A stage that cannot be a function is always inline.

    Raises:
        PlanError: When the function is called: the stage reads a variable that belongs to none of its layers.
    """

    def run(weights: list[Any], state: list[Any], inputs: list[Value]) -> Forward:
        return stage.forward(weights, state, inputs, training)

    if not is_function(stage):
        return run
    xla = jit and compiles(stage)
    return run if inline and not xla else TracedStage(stage, training, xla)


class TracedStage:
    """Runs a stage forward as a `tf.function`, or as an XLA program.

    Args:
        stage: The stage.
        training: Keras's `training` argument.
        xla: Whether to compile with XLA.

    `unused` has the places in `differentiable_leaves` of the outputs on which no loss depends. It follows from the
    model and its losses; the first backward pass finds it. TensorFlow hands a function zeros for the cotangents that it
    lacks, and zero times an infinite derivative is no number. So no gradient may pass through such an output.

    Raises:
        PlanError: When it is called: the stage reads a variable that belongs to none of its layers.
    """

    def __init__(self, stage: Stage, training: bool, xla: bool) -> None:
        self._stage = stage
        self._training = training
        self._traces = SharedTraces(self._flat, xla)
        self._repeating: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()  # By the traced graph.
        self.unused: tuple[int, ...] = ()
        self.repeats = True  # Whether a second call gives the same; known once it has been called.

    def __call__(self, weights: list[Any], state: list[Any], inputs: list[Value]) -> Forward:
        """Run the stage forward, as `Stage.forward` does."""
        arguments = weights, state, inputs, self.unused
        function = self._traces.of(arguments)
        graph = function.graph
        if graph not in self._repeating:
            # `tf.random` draws other numbers at each call.
            self._repeating[graph] = not any(each.op_def.is_stateful for each in graph.get_operations())
        self.repeats = self._repeating[graph]
        if not tf.executing_eagerly():
            # Weights and state are arguments, so the traced function should have captured no variable at all.
            refuse_foreign(graph.variables, self._stage)
        outputs, added, assigned, end = function(*arguments)
        return Forward(outputs, added, assigned, end, self._stage.state_rules(self._training))

    def _flat(
        self, weights: list[Any], state: list[Any], inputs: list[Value], unused: tuple[int, ...]
    ) -> tuple[Any, ...]:
        # A `tf.function` returns tensors only. The stage finds its `StateRules` while it is traced, and keeps them.
        forward = self._stage.forward(weights, state, inputs, self._training)
        return without_gradient(forward.outputs, unused), forward.added, forward.assigned, forward.state


def is_function(stage: Stage) -> bool:
    """Return whether a stage can be a function: synchronized BatchNorm reduces over the replicas while it runs."""
    return not any(getattr(layer, "synchronized", False) for layer in stage.layers)


def compiles(stage: Stage) -> bool:
    """Return whether XLA can compile a stage.

    A recurrent layer it cannot: the tensor lists that its loop keeps for the backward pass cannot leave an XLA program.
    """
    return all(layer.supports_jit and not isinstance(layer, keras.layers.RNN) for layer in stage.layers)


def refuse_foreign(variables: Any, stage: Stage) -> None:
    """Refuse a stage that reads a variable other than its own weights and state.

    Raises:
        PlanError: The stage captured a variable. Changes of it would not pass from microbatch to microbatch, and the
            stage would be a stateful call: TensorFlow would run the stages one after another.
    """
    if variables:
        names = sorted({variable.name for variable in variables})
        layers = [layer.name for layer in stage.layers][:8]
        raise PlanError(
            f"Expected a stage to read its own layers' variables only, but one of {layers} reads {names}, which is "
            "global. Make it a weight of its layer with add_weight, give random functions a seed generator of the "
            "layer's own (keras.random.SeedGenerator), or use one stage without microbatches and without "
            "shard='weights'."
        )
