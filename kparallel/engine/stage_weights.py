"""The weights of the stages as tensors on the devices of a replica: read once, or brought anew for each action.

```text
each replica has a copy     copy ──► read before the first action ──────► F ... B
the owner alone has it      owner ─► brought ─► F ─► dropped ... owner ─► brought ─► B ─► dropped
```

The second is `shard="weights"`. No more than two stages' weights are then on a device at once: those of the action
that runs, and those of the next one, which travel meanwhile.

Over several workers the weights of a stage are brought by one broadcast over the stage's column, to which each owner
gives what it holds:

```text
worker 0    kernel ──┐                ┌──► kernel, bias
worker 1      bias ──┴─► broadcast ───┴──► kernel, bias
```

All workers trace the same actions in the same order, so they launch the same broadcasts in the same order. A worker
whose share is too small for a microbatch takes part in the broadcasts for its actions all the same.
"""

from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from kparallel.comm.communicator import Communicator
from kparallel.compat.variables import copies_of, has_single_copy, variable_of_workers
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
        communicators: `[s]`: those of the stages' columns, by which weights come that another worker holds. Default
            none: every weight can be read in this process.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        devices: Sequence[StageDevice],
        held: Sequence[list[tf.Tensor]] | None = None,
        communicators: Sequence[Communicator] = (),
    ) -> None:
        self._stages = stages
        self._devices = devices
        self._communicators = communicators
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
        return self._bring(s, self._stages[s].weights, after)

    def come_from_workers(self, s: int) -> bool:
        """Tell whether all workers take part whenever the weights of a stage are brought."""
        return self._held[s] is None and bool(self._apart(self._stages[s].weights))

    def all(self) -> list[list[tf.Tensor]]:
        """Return the weights of all stages on their devices."""
        return [self.of(s) for s in range(len(self._stages))]

    def one(self, s: int, w: int) -> tf.Tensor:
        """Return a single weight of a stage on its device."""
        held = self._held[s]
        return self._bring(s, [self._stages[s].weights[w]], ())[0] if held is None else held[w]

    def state_of_owners(self, s: int) -> dict[int, tf.Tensor]:
        """Return, by the id of the variable, the state of a stage that another worker may hold.

        It is weights that were frozen after `compile`: until the next one they stay with their owners.
        """
        apart = self._apart(self._stages[s].state.variables)
        return dict(zip(map(id, apart), self._bring(s, apart, ()), strict=True))

    def _apart(self, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
        """Return those variables that the workers share out."""
        return [each for each in variables if self._communicators and variable_of_workers(each) is not None]

    def _bring(self, s: int, variables: Sequence[keras.Variable], after: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return copies of weights on the device of a stage, made when some tensors exist."""
        device = self._devices[s].name
        apart = self._apart(variables)
        sent: Iterator[tf.Tensor] = iter([])
        if apart:
            with tf.name_scope(f"reduce{s}"):  # `kparallel.trace` counts what is under this name as communication.
                sent = iter(_broadcast(apart, device, self._communicators[s], after))
        ids = set(map(id, apart))
        return [next(sent) if id(each) in ids else _brought(each, device, after) for each in variables]


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


def _broadcast(
    variables: Sequence[keras.Variable], device: str, communicator: Communicator, after: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Return the values that the owners of weights, replicas of any worker, have sent to a device."""
    values, owners = [], []
    # All of it waits, the broadcast too: a worker that owns none of these weights would have room for them too early.
    with tf.control_dependencies(list(after)):
        for variable in variables:
            owned = variable_of_workers(variable)
            assert owned is not None
            owners.append(owned.owner.replica)
            value = owned.local_value()
            with tf.device(device):
                values.append(tf.zeros(owned.shape, owned.dtype) if value is None else tf.identity(value))
        with tf.device(device):
            return communicator.broadcast(values, owners)
