"""Traces the stages with other numbers of rows, to see which gathers give more slices for more rows.

Nothing of it is ever run.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import one_replica_view
from kparallel.engine.executor import Executor, StageFunction, differentiable
from kparallel.engine.gather_sources import Source, sources
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.stage import Forward

__all__: list[str] = []


class Probe:
    """The stages as an executor ran them, to be traced again.

    Args:
        pipeline: The stages.
        calls: As the executor called them.
        executor: Has carried out a batch.
        varying: For each stage and state variable, whether microbatches or replicas differ in it.
    """

    def __init__(
        self, pipeline: Pipeline, calls: Sequence[StageFunction], executor: Executor, varying: Sequence[Sequence[bool]]
    ) -> None:
        self._pipeline = pipeline
        self._calls = calls
        self._executor = executor
        self._varying = varying

    def sources(self, x: Any, rows: int) -> dict[tuple[int, int], list[Source]]:
        """Return the sources of each gradient of slices, by (stage, weight).

        Args:
            x: The inputs of a part of a batch.
            rows: How many rows to trace with.
        """
        found: dict[tuple[int, int], list[Source]] = {}

        def trace(weights: Any, state: Any, x: Any) -> None:
            varying = varying_names(x, state, self._varying)
            for s, gradients in enumerate(self._gradients(weights, state, x, rows)):
                for index, gradient in enumerate(gradients):
                    if isinstance(gradient, tf.IndexedSlices):
                        found[s, index] = sources(gradient.indices, varying)

        of_weights, of_state = (
            tf.nest.map_structure(_like, each) for each in (self._executor.weights, self._executor.start)
        )
        with one_replica_view():
            specs = keras.tree.map_structure(lambda leaf: _with_rows(leaf, rows), x)
            tf.function(trace, autograph=False).get_concrete_function(of_weights, of_state, specs)
        return found

    def _gradients(self, weights: Any, state: Any, x: Any, rows: int) -> list[list[Any]]:
        """Return each stage's gradients, of whatever it hands on that had a cotangent."""
        values, masks = self._pipeline.feed(x), dict[int, Any]()
        result = []
        for s, stage in enumerate(self._pipeline.stages):
            inputs = [values[number] for number in stage.reads]
            received = [v for n, v in zip(stage.reads, inputs, strict=True) if n not in self._pipeline.inputs]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([weights[s], differentiable(received)])
                forward = self._calls[s](weights[s], state[s], inputs, [masks.get(n) for n in stage.reads])
                added = [tf.reduce_sum(value) for value in forward.added]
            values.update(zip(stage.writes, forward.outputs, strict=True))
            masks.update(zip(stage.writes, forward.masks, strict=True))
            targets = [*self._targets(s, forward), *added]
            result.append(tape.gradient(targets, weights[s]) if targets else [])
        return result

    def _targets(self, s: int, forward: Forward) -> list[Any]:
        leaves = keras.tree.flatten([forward.outputs, forward.logits])
        return [leaf for leaf, used in zip(leaves, self._executor.used[s], strict=True) if used]


def varying_names(x: Any, state: Any, varying: Sequence[Sequence[bool]]) -> set[str]:
    """Return the names of the tensors in which parts of a batch differ.

    Args:
        x: The inputs; of those that are sparse the values, not the shape.
        state: Each stage's state.
        varying: For each stage and state variable, whether it is one of them.
    """
    names = set()
    for leaf in keras.tree.flatten(x):
        if isinstance(leaf, tf.SparseTensor):
            names |= {leaf.indices.name, leaf.values.name}
        elif leaf is not None:
            names |= {each.name for each in tf.nest.flatten(leaf, expand_composites=True)}
    for pair in zip(state, varying, strict=True):
        names |= {tensor.name for tensor, varies in zip(*pair, strict=True) if varies}
    return names


def _like(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _with_rows(leaf: Any, rows: int) -> Any:
    if leaf is None:
        return None
    shape = [rows, *leaf.shape[1:]]
    if isinstance(leaf, tf.SparseTensor):
        return tf.SparseTensorSpec(shape, leaf.dtype)
    if isinstance(leaf, tf.RaggedTensor):
        return tf.RaggedTensorSpec(shape, leaf.dtype, leaf.ragged_rank, leaf.row_splits.dtype)
    return tf.TensorSpec(shape, leaf.dtype)
