"""The weights of the stages as tensors on the devices of a replica: read once, or brought anew for each action.

```text
each replica has a copy     copy ──► read before the first action ──────► F ... B
the owner alone has it      owner ─► brought ─► F ─► dropped ... owner ─► brought ─► B ─► dropped
```

The second is `shard="weights"`. No more than two stages' weights are then on a device at once: those of the action
that runs, and those of the next one, which travel meanwhile.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from kparallel.compat.variables import copies_of, has_single_copy
from kparallel.engine.stage_device import StageDevice
from kparallel.stage.stage import Stage

__all__: list[str] = []


class StageWeights:
    """The weights of a replica's stages during one batch. Make it before the first action.

    All actions see the same weights, since what a batch changes is written after its last action.

    Args:
        stages: The stages.
        devices: `[s]`: where they run.
        held: `[s][w]`: their values; None to read them from the variables.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        devices: Sequence[StageDevice],
        held: Sequence[list[tf.Tensor]] | None = None,
    ) -> None:
        self._stages = stages
        self._devices = devices
        # `[s][w]`; None for a stage whose weights are brought.
        self._held: list[list[tf.Tensor] | None] = (
            [_read(stage, device) for stage, device in zip(stages, devices, strict=True)] if held is None else [*held]
        )

    def of(self, s: int, after: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
        """Return the weights of a stage on its device.

        Args:
            s: The stage.
            after: What has to exist before a weight begins to travel. Default nothing.
        """
        held = self._held[s]
        if held is not None:
            return held
        return [_brought(variable, self._devices[s].name, after) for variable in self._stages[s].weights]

    def all(self) -> list[list[tf.Tensor]]:
        """Return the weights of all stages on their devices."""
        return [self.of(s) for s in range(len(self._stages))]

    def one(self, s: int, w: int) -> tf.Tensor:
        """Return a single weight of a stage on its device."""
        held = self._held[s]
        return _brought(self._stages[s].weights[w], self._devices[s].name, ()) if held is None else held[w]


def _read(stage: Stage, device: StageDevice) -> list[tf.Tensor] | None:
    """Return the weights of a stage on its device, None if their owners alone hold them."""
    if any(map(has_single_copy, stage.weights)):
        return None
    with tf.device(device.name):
        return device.read(stage)


def _brought(variable: keras.Variable, device: str, after: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return a copy of a weight on a device, made when some tensors exist."""
    owned = copies_of(variable)[0]
    # The read waits, not the copy: TensorFlow sends a value once it is there, whatever its receiver waits for.
    with tf.control_dependencies(list(after)), tf.device(owned.device):
        value = owned.read_value()
    with tf.device(device):
        return tf.identity(value)
