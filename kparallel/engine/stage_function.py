"""A stage as a callable: inline, a function traced once for each shape, or an XLA program."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.engine.executor import StageFunction
from kparallel.errors import PlanError
from kparallel.stage.stage import Forward, Stage

__all__: list[str] = []


def stage_function(stage: Stage, training: bool, *, jit: bool, inline: bool) -> StageFunction:
    """Return the callable that runs a stage forward.

    Args:
        stage: The stage.
        training: As Keras means it.
        jit: Whether to compile with XLA, where every layer of the stage allows it; a recurrent layer does not,
            because what its loop keeps for the backward pass cannot leave an XLA program.
        inline: Whether to leave an uncompiled stage in the step's own graph; worth it for a single call.

    Returns:
        Takes (weights, state, inputs, masks), returns `Forward`. A synchronized BatchNorm keeps its stage
        inline, because it reduces over the replicas while it runs.

    Raises:
        PlanError: When called: the stage reads a variable that is not its layers' own.
    """

    def run(weights: list[Any], state: list[Any], inputs: list[Any], masks: list[Any]) -> Forward:
        return stage.forward(weights, state, inputs, masks, training)

    if any(getattr(layer, "synchronized", False) for layer in stage.layers):
        return run
    xla = jit and all(layer.supports_jit and not isinstance(layer, keras.layers.RNN) for layer in stage.layers)
    if inline and not xla:
        return run

    def flat(weights: list[Any], state: list[Any], inputs: list[Any], masks: list[Any]) -> tuple[Any, ...]:
        forward = run(weights, state, inputs, masks)
        return forward.outputs, forward.masks, forward.logits, forward.added, forward.assigned, forward.state

    function = traced(flat, jit_compile=xla or None)

    def call(weights: list[Any], state: list[Any], inputs: list[Any], masks: list[Any]) -> Forward:
        if not tf.executing_eagerly():
            _refuse_foreign(function.get_concrete_function(weights, state, inputs, masks).graph.variables, stage)
        outputs, output_masks, logits, added, assigned, end = function(weights, state, inputs, masks)
        return Forward(outputs, output_masks, logits, added, assigned, end, stage.state_rules(training))

    return call


def _refuse_foreign(variables: Any, stage: Stage) -> None:
    """Make sure that a stage reads nothing but its own weights and state.

    Raises:
        PlanError: It reads another variable, whose changes would not pass from microbatch to microbatch, and which
            would make TensorFlow run the stages one after another.
    """
    if variables:
        names = sorted({variable.name for variable in variables})
        layers = [layer.name for layer in stage.layers][:8]
        raise PlanError(
            f"Expected a stage to read its own layers' variables only, but one of {layers} reads {names}, which is "
            "global. Make it a weight of its layer with add_weight, give random functions a seed generator of the "
            "layer's own (keras.random.SeedGenerator), or use one stage without microbatches."
        )
