"""Values in the place of weights that other workers hold, for a pass of which only the statistics of the rows count.

TensorFlow prunes such a pass to what the statistics depend on: masks and shapes, seldom a weight. The broadcasts that
bring weights are not pruned, and each worker has to launch the same ones.
"""

from collections.abc import Iterable
from dataclasses import replace

import keras
import tensorflow as tf

from kparallel.compat.variables import variable_of_workers
from kparallel.engine.graph_part import ancestors
from kparallel.engine.replica import Replica

__all__: list[str] = []


class StandIns:
    """Zeros in the place of what the workers share out.

    Args:
        replica: The present replica.
    """

    def __init__(self, replica: Replica) -> None:
        self._zeros: set[tf.Operation] = set()
        weights, state = [], []
        for stage, device in zip(replica.pipeline.stages, replica.stage_devices, strict=True):
            with tf.device(device.name):
                weights.append([self._value(weight) for weight in stage.weights])
                known = {id(each): self._value(each) for each in stage.state.variables if _is_elsewhere(each)}
                state.append(stage.state.read(replica.index, known))
        self.replica = replace(replica, values=(weights, state))

    def are_needed(self, tensors: Iterable[tf.Tensor]) -> bool:
        """Tell whether tensors are computed from the zeros, or an operation that TensorFlow does not prune is.

        Args:
            tensors: Results of a traced pass.
        """
        effects = [each for each in tf.compat.v1.get_default_graph().get_operations() if each.op_def.is_stateful]
        read = [*tensors, *(tensor for each in effects for tensor in each.inputs)]
        return not self._zeros.isdisjoint(ancestors(read, set()))

    def _value(self, variable: keras.Variable) -> tf.Tensor:
        if not _is_elsewhere(variable):
            return tf.identity(variable.value)
        # Of a constant TensorFlow would know the value while it traces.
        zeros = tf.zeros(variable.shape, variable.dtype)
        value = tf.raw_ops.PlaceholderWithDefault(input=zeros, shape=zeros.shape)
        self._zeros.add(value.op)
        return value


def weights_come_from_workers(replica: Replica) -> bool:
    """Tell whether workers share out what a replica's stages read, so that it comes by broadcasts."""
    stages = replica.pipeline.stages
    return any(_is_elsewhere(each) for stage in stages for each in [*stage.weights, *stage.state.variables])


def _is_elsewhere(variable: keras.Variable) -> bool:
    return variable_of_workers(variable) is not None
