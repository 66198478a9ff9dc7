"""The sums over the replicas behind the backward pass: gradients and state of each stage, then what is reported."""

from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from kparallel.collective.compression import compressed, restored
from kparallel.collective.exchange import Exchange, add, local_copy
from kparallel.data.rows import Rows
from kparallel.engine.beside import beside_inputs
from kparallel.engine.executor import Executor
from kparallel.engine.layout import Layout
from kparallel.stage.pipeline import Pipeline

__all__: list[str] = []


def reduced(
    pipeline: Pipeline, layout: Layout, row: tuple[str, ...], executor: Executor, rows: Rows
) -> tuple[dict[int, Any], list[list[tf.Tensor]]]:
    """Sum each stage's gradients and changes of state over its column, the last stage's first: it is ready first.

    Args:
        pipeline: The stages.
        layout: Has each stage's exchange.
        row: This replica's devices.
        executor: Has carried out the batch.
        rows: This replica's rows.

    Returns:
        The gradient of each variable by its id, and the changes of state of each stage.
    """
    parts: dict[int, list[Any]] = {}
    for stage, gradients in zip(pipeline.stages, executor.gradients, strict=True):
        for variable, gradient in zip(stage.weights, gradients, strict=True):
            if gradient is not None:
                parts.setdefault(id(variable), []).append(gradient)
    result: dict[int, Any] = {}
    states: list[list[tf.Tensor]] = [[] for _ in pipeline.stages]
    for s, stage in reversed(list(enumerate(pipeline.stages))):
        known = [variable for variable in stage.owned if id(variable) in parts]
        place: AbstractContextManager[Any] = beside_inputs() if pipeline.placed else tf.device(row[s])
        with tf.name_scope(f"reduce{s}"), place:
            local = [zeroed(add(parts[id(v)]), rows) for v in known]
            changes = stage.changes(executor.start[s], executor.ends[s], rows.count > 0)
            sums = layout.exchanges[s].sum([*compressed(local, layout.compression), *changes])
            gradients = restored([local_copy(value) for value in sums[: len(local)]], local)
        result.update(zip(map(id, known), gradients, strict=True))
        states[s] = sums[len(local) :]
    return result, states


def summed(values: list[tf.Tensor], exchange: Exchange) -> list[tf.Tensor]:
    """Sum numbers over the replicas, all in one exchange: float64 holds every count and sum exactly enough."""
    flat = tf.concat([tf.reshape(tf.cast(value, tf.float64), [-1]) for value in values], 0)
    parts = tf.split(exchange.sum([flat])[0], [value.shape.num_elements() for value in values])
    return [tf.cast(tf.reshape(part, value.shape), value.dtype) for part, value in zip(parts, values, strict=True)]


def zeroed(value: Any, rows: Rows) -> Any:
    """Zero what an empty share gave: its row of zeros may have made NaN."""
    if rows.count:
        return value
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(tf.zeros_like(value.values), value.indices, value.dense_shape)
    return tf.zeros_like(value)
