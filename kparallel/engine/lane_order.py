"""The order of the actions of each lane, and the weights that each action has.

```text
runs       ──0F0────► ──1F0────► ──2F0────►
travels    ┄┄1┄┄►     ┄┄2┄┄►                    the weights of the next action's stage, while this one runs
```
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from kparallel.engine.stage_device import StageDevice
from kparallel.engine.stage_weights import StageWeights

__all__: list[str] = []


class LaneOrder:
    """Lets the actions of a lane run one after another.

    Args:
        lanes: The lane of each stage.
        devices: `[s]`: where the stages run.
        weights: Their weights.
    """

    def __init__(self, lanes: Sequence[int], devices: Sequence[StageDevice], weights: StageWeights) -> None:
        self._lanes = lanes
        self._devices = devices
        self._weights = weights
        # `[lane]`: a tensor that exists once the lane's previous action is done, and one for the action before that.
        self._previous: dict[int, list[tf.Tensor]] = {}
        self._earlier: dict[int, list[tf.Tensor]] = {}
        # `[lane]`: the stage of the lane's previous action, and the weights that it had.
        self._last: dict[int, tuple[int, list[tf.Tensor]]] = {}

    def weights(self, s: int) -> list[tf.Tensor]:
        """Return the weights of a stage for its next action; actions of one stage in a row have the same copies."""
        lane = self._lanes[s]
        stage, weights = self._last.get(lane, (None, []))
        if stage != s:
            weights = self._weights.of(s, self._earlier.get(lane, []))
            self._last[lane] = s, weights
        return weights

    def after_previous(self, s: int) -> AbstractContextManager[Any]:
        """Return a context whose operations wait for the previous action of a stage's lane."""
        waiting: AbstractContextManager[Any] = tf.control_dependencies(self._previous.get(self._lanes[s], []))
        return waiting

    def finish(self, s: int, results: Any) -> None:
        """Let the lane's next action wait for the results of a stage's action.

        ```text
        results ─► identity_n ┄┄ control edge ┄┄► copies of the next action's inputs ─► its stage function
        ```

        A control edge from the call of a stage's function would not order anything: TensorFlow inlines the function,
        and the edge then waits for its side effects only, of which a stage has none. A data edge survives inlining.
        """
        lane = self._lanes[s]
        tensors = [leaf for leaf in tf.nest.flatten(results, expand_composites=True) if isinstance(leaf, tf.Tensor)]
        if tensors:
            self._earlier[lane] = self._previous.get(lane, [])
            self._previous[lane] = self._devices[s].barrier(tensors)
