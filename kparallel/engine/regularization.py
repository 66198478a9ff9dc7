"""Penalties on weights, which depend on no microbatch."""

from collections.abc import Callable

import tensorflow as tf

from kparallel.engine.executor import Executor
from kparallel.engine.sparse_gradients import accumulated
from kparallel.stage.pipeline import Pipeline

__all__: list[str] = []


def penalties(
    pipeline: Pipeline,
    row: tuple[str, ...],
    executor: Executor,
    part: Callable[[], tf.Tensor],
    scaled: Callable[[tf.Tensor], tf.Tensor],
) -> list[tf.Tensor]:
    """Return the values of the regularizers of all weights, and add their gradients to the executor's.

    Args:
        pipeline: The stages; a weight that several read counts with the one that owns it.
        row: This replica's devices.
        executor: Has carried out the batch.
        part: Gives the float64 scalar that each penalty counts by; asked only where there is one.
        scaled: Applies the optimizer's loss scale.

    Returns:
        One float64 scalar for each penalty.
    """
    row_ranges = [
        (s, index, variable)
        for s, stage in enumerate(pipeline.stages)
        for index, variable in enumerate(stage.weights)
        if variable.regularizer is not None and any(variable is owned for owned in stage.owned)
    ]
    if not row_ranges:
        return []
    share = part()
    values = []
    for s, index, variable in row_ranges:
        with tf.device(row[s]):
            weight = executor.weight(s, index)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weight)
                value = variable.regularizer(weight)
            factor = tf.cast(scaled(share), value.dtype)
            gradient = tape.gradient(value, weight, output_gradients=factor)
            executor.gradients[s][index] = accumulated(executor.gradients[s][index], gradient)
            values.append(tf.cast(value, tf.float64) * share)
    return values
