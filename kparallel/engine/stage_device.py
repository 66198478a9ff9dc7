"""Where the operations of a stage run: all on one device, or each on the device of its layer.

```text
                      StageDevice               LayerDevices
weights               read on the device        each read where it lies
forward pass          on the device             begins on the first device; each layer goes to its own
backward pass         on the device             each operation where its forward operation ran
sums over replicas    on the device             each where its gradient is
```
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kparallel.engine.colocate import colocate_with_forward, colocate_with_inputs
from kparallel.stage.stage import Stage

__all__: list[str] = []


@dataclass(frozen=True)
class StageDevice:
    """The device of one stage.

    Args:
        name: Its full name.
    """

    name: str

    def read(self, stage: Stage) -> list[tf.Tensor]:
        """Return the stage's trainable weights as tensors; the device is active."""
        return [tf.identity(variable.value) for variable in stage.weights]

    def backward(self) -> AbstractContextManager[Any]:
        """Return a context for the backward pass, within the device's own."""
        return nullcontext()

    def reduction(self) -> AbstractContextManager[Any]:
        """Return a context for what is done with the gradients before they are summed over the replicas."""
        device: AbstractContextManager[Any] = tf.device(self.name)
        return device

    def barrier(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return what exists once these results of an action do: the next action of the lane waits for it."""
        with tf.device(self.name):
            # One operation that waits for all of its inputs; one output of it is enough to wait for.
            return list(tf.identity_n(list(tensors))[:1])


class LayerDevices(StageDevice):
    """The devices of a model that cannot be cut: it is one stage, whose layers have devices of their own.

    Args:
        name: The first device, on which the stage begins.
    """

    def read(self, stage: Stage) -> list[tf.Tensor]:
        """Return the stage's trainable weights as tensors, each on its own device."""
        weights = []
        for variable in stage.weights:
            # Such a model has one replica: the first copy is the only one.
            with tf.device(variable.value.values[0].device):
                weights.append(tf.identity(variable.value))
        return weights

    def backward(self) -> AbstractContextManager[Any]:
        """Return a context in which each operation runs where its forward operation ran: the layers share a tape."""
        return colocate_with_forward()

    def reduction(self) -> AbstractContextManager[Any]:
        """Return a context in which each operation runs where its gradient is."""
        return colocate_with_inputs()

    def barrier(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return nothing: one stage of one microbatch has two actions, and the second reads what the first returned."""
        return []
