"""Variables that the optimizer overwrites with their gradient: the scales of float8 and the histories behind them.

What a layer gives as such a gradient is the new value: of a scale what the history tells, the same in each part of a
batch; of a history the largest magnitude that the part has seen. The whole batch's is the largest of its parts'.
"""

from typing import Any

import tensorflow as tf

from kparallel.data.share import Rows
from kparallel.engine.executor import Executor
from kparallel.engine.placement import Placement
from kparallel.errors import ModelError
from kparallel.stage.pipeline import Pipeline

__all__: list[str] = []


def overwritten(
    pipeline: Pipeline, placement: Placement, row: tuple[str, ...], executor: Executor, rows: Rows, parts: int
) -> dict[int, tf.Tensor]:
    """Return the new value of each variable that is overwritten, by its id, largest over the replicas.

    Args:
        pipeline: The stages.
        placement: Has each stage's communicator.
        row: This replica's devices.
        executor: Has carried out the batch.
        rows: This replica's rows.
        parts: Into how many shares and microbatches a batch is divided.

    Raises:
        ModelError: Such a variable is not one of Keras's float8 layers', so that nobody knows how parts go together.
    """
    result: dict[int, tf.Tensor] = {}
    for s, stage in enumerate(pipeline.stages):
        found = [(stage.weights[index], value) for index, value in executor.overwritten[s].items()]
        for variable, _ in found:
            if parts > 1 and id(variable) not in stage.float8:
                raise ModelError(
                    f"Expected no variables that are overwritten with their gradient but those of Keras's float8 "
                    f"layers, received {variable.path!r} in a batch divided into {parts}: nothing tells how the parts' "
                    "values make the whole batch's. Use one replica and one microbatch."
                )
        with tf.name_scope(f"reduce{s}"), tf.device(row[s]):
            values = _largest(placement, s, [value for _, value in found], rows)
        for (variable, _), value in zip(found, values, strict=True):
            earlier = result.get(id(variable))  # Of another stage's call: gradients add up, as on one device.
            result[id(variable)] = value if earlier is None else earlier + value
    return result


def _largest(placement: Placement, s: int, values: list[Any], rows: Rows) -> list[tf.Tensor]:
    """Return the largest of the replicas' values, in one communicator."""
    if not values or placement.replicas == 1:
        return values
    flat = tf.concat([tf.reshape(value, [-1]) for value in values], 0)
    flat = flat if rows.count else tf.fill(flat.shape, flat.dtype.min)
    whole = tf.reduce_max(tf.stack(placement.communicators[s].all_gather([flat])[0]), 0)
    parts = tf.split(whole, [value.shape.num_elements() for value in values])
    return [tf.reshape(part, value.shape) for part, value in zip(parts, values, strict=True)]
