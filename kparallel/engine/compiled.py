"""A stage as a callable: inline, a function traced once for each shape, or an XLA program."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.engine.executor import StageCall
from kparallel.stage.stage import Forward, Stage

__all__: list[str] = []


def stage_call(stage: Stage, training: bool, *, jit: bool, inline: bool) -> StageCall:
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
        return forward.outputs, forward.masks, forward.added, forward.state

    function = tf.function(flat, jit_compile=xla or None, autograph=False)

    def call(weights: list[Any], state: list[Any], inputs: list[Any], masks: list[Any]) -> Forward:
        return Forward(*function(weights, state, inputs, masks))

    return call
