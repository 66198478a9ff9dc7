"""Traces the stages with other numbers of rows, to find the gathers that give more slices for more rows.

The traced functions are never run.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import one_replica_view
from kparallel.engine.gather_sources import Source, sources
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.stage_function import StageFunction
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.stage import Forward
from kparallel.stage.value import differentiable, differentiable_leaves

__all__: list[str] = []


class Probe:
    """Traces the stages again as they ran.

    Args:
        pipeline: The stages.
        functions: `[s]`: the function of each stage.
        result: The result of a replica's passes.
        varying: `[s][v]`: whether microbatches or replicas differ in a state variable.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        functions: Sequence[StageFunction],
        result: ReplicaResult,
        varying: Sequence[Sequence[bool]],
    ) -> None:
        self._pipeline = pipeline
        self._functions = functions
        self._result = result
        self._varying = varying

    def sources(self, x: Any, rows: int) -> dict[tuple[int, int], list[Source]]:
        """Return the sources of each gradient that is a `tf.IndexedSlices`, by (stage, weight).

        Args:
            x: The inputs of a part of a batch; only their shapes and dtypes are used.
            rows: The number of rows to trace with.
        """
        by_weight: dict[tuple[int, int], list[Source]] = {}

        def trace(weights: Any, state: Any, x: Any) -> None:
            varying = varying_names(x, state, self._varying)
            for s, gradients in enumerate(self._gradients(weights, state, x, rows)):
                for index, gradient in enumerate(gradients):
                    if isinstance(gradient, tf.IndexedSlices):
                        by_weight[s, index] = sources(gradient.indices, varying)

        # Weights and state are arguments, as in the step: the walk ends at placeholders whose names are known.
        of_weights = [[tf.TensorSpec(w.shape, w.dtype) for w in stage.weights] for stage in self._pipeline.stages]
        of_state = tf.nest.map_structure(_like, self._result.start)
        with one_replica_view():
            specs = keras.tree.map_structure(lambda leaf: _with_rows(leaf, rows), x)
            tf.function(trace, autograph=False).get_concrete_function(of_weights, of_state, specs)
        return by_weight

    def _gradients(self, weights: Any, state: Any, x: Any, rows: int) -> list[list[Any]]:
        """Return the gradients of each stage's weights, `[s][w]`.

        Each stage is differentiated by itself. Which gathers a gradient consists of depends on which outputs had a
        cotangent, not on the values of the cotangents, so those are left at 1.
        """
        values = self._pipeline.feed(x)
        result = []
        for s, stage in enumerate(self._pipeline.stages):
            inputs = [values[number] for number in stage.reads]
            reads = zip(stage.reads, inputs, strict=True)
            received = [value.tensor for number, value in reads if number not in self._pipeline.inputs]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([weights[s], differentiable(received)])
                forward = self._functions[s](weights[s], state[s], inputs)
                added = [tf.reduce_sum(value) for value in forward.added]
            values.update(zip(stage.writes, forward.outputs, strict=True))
            # The same targets as in the step's backward pass: an output that no loss depends on gives no slices.
            targets = [*self._targets(s, forward), *added]
            result.append(tape.gradient(targets, weights[s]) if targets else [])
        return result

    def _targets(self, s: int, forward: Forward) -> list[Any]:
        leaves = differentiable_leaves(forward.outputs)
        return [leaf for leaf, used in zip(leaves, self._result.differentiated[s], strict=True) if used]


def varying_names(x: Any, state: Any, varying: Sequence[Sequence[bool]]) -> set[str]:
    """Return the names of the tensors in which parts of a batch differ.

    Args:
        x: The inputs. All parts of a sparse input have the same dense shape, which does not count.
        state: `[s][v]`: the state of each stage.
        varying: `[s][v]`: whether parts differ in it.
    """
    names = set()
    for leaf in keras.tree.flatten(x):
        if isinstance(leaf, tf.SparseTensor):
            # By name, as the walk through the graph ends at placeholders.
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
