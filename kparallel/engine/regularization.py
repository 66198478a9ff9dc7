"""Penalties on weights (`kernel_regularizer` and the like), which depend on no microbatch."""

from collections.abc import Callable

import tensorflow as tf

from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.sparse_gradients import accumulated

__all__: list[str] = []


def add_regularization(
    replica: Replica,
    result: ReplicaResult,
    part: Callable[[], tf.Tensor],
    scaled: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[ReplicaResult, list[tf.Tensor]]:
    """Add the gradients of the regularizers of all weights.

    A weight that several stages read is counted with the one that owns it.

    Args:
        replica: This one.
        result: What its passes left.
        part: Gives the float64 scalar that each penalty counts by; asked only where there is one.
        scaled: Applies the optimizer's loss scale.

    Returns:
        The result with the gradients added, and the value of each penalty as a float64 scalar.
    """
    places = [
        (s, w, variable)
        for s, stage in enumerate(replica.pipeline.stages)
        for w, variable in enumerate(stage.weights)
        if variable.regularizer is not None and any(variable is owned for owned in stage.owned)
    ]
    if not places:
        return result, []
    fraction = part()
    gradients = [list(of_stage) for of_stage in result.gradients]
    values = []
    for s, w, variable in places:
        with tf.device(replica.devices[s]):
            weight = result.weight(s, w)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weight)
                value = variable.regularizer(weight)
            gradient = tape.gradient(value, weight, output_gradients=tf.cast(scaled(fraction), value.dtype))
            gradients[s][w] = accumulated(gradients[s][w], gradient)
            values.append(tf.cast(value, tf.float64) * fraction)
    return result.with_gradients(gradients), values
