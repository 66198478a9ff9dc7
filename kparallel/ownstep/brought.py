"""Weights that their owners alone hold, brought to every replica for a step or loop of the user's own.

```text
              between steps      in a step                             between steps
replica 0     kernel             kernel ──────────── step ─► kernel    kernel
                                      ╲           ╱     ╲
replica 1            bias        kernel bias ──── step ─► bias                bias
```

Such a step reads what it likes, when it likes, so all weights are brought at its beginning. While it runs, each
weight is a variable with a copy on each replica. At its end the copies are emptied: they take no memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.copies import copies_beside_owner, copies_in_place
from kparallel.compat.placed_variables import PlacedVariable
from kparallel.compat.variables import copies_of, empty_copy, fill_copy, has_single_copy, placed_value
from kparallel.engine.placement import Placement

__all__: list[str] = []


class BroughtWeights:
    """The weights that a step needs on every replica, and that their owners alone hold between steps.

    Args:
        variables: What the step may use; those that are no weights with an owner are left as they are.
        owners: By the id of a weight, the replica that holds it.
        placement: Where replicas run.
    """

    def __init__(self, variables: Sequence[keras.Variable], owners: Mapping[int, int], placement: Placement) -> None:
        self._placement = placement
        column = [row[-1] for row in placement.rows]
        alone = _alone(variables, owners)
        self._held = [placed_value(weight) for weight in alone]
        self._owners = [owners[id(weight)] for weight in alone]
        self._copies: list[tuple[keras.Variable, PlacedVariable]] = [
            (weight, copies_beside_owner(weight, column, owner - placement.first_replica))
            for weight, owner in zip(alone, self._owners, strict=True)
        ]

    @property
    def shard(self) -> str:
        """What the owners hold, as a plan names it: `"weights"`, or the slots alone."""
        return "weights" if self._copies else "optimizer"

    def are_of(self, variables: Sequence[keras.Variable], owners: Mapping[int, int]) -> bool:
        """Tell whether these are the weights of a step that may use some variables, and lie where they lay."""
        alone = _alone(variables, owners)
        held = [placed_value(weight) for weight in alone]
        same = [id(each) for each in held] == [id(each) for each in self._held]
        return same and [owners[id(weight)] for weight in alone] == self._owners

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the weights be variables with a copy on each replica: while a step is traced, or runs eagerly."""
        with copies_in_place(self._copies):
            yield

    def bring(self, strategy: tf.distribute.Strategy) -> None:
        """Give all replicas the values of the owners. Call it before the step, not in a replica."""
        # Before any replica runs: a step that assigns a weight changes its owner's copy.
        if self._copies:
            strategy.run(self._bring)

    def drop(self, strategy: tf.distribute.Strategy) -> None:
        """Leave the values to their owners. Call it after the step, not in a replica."""
        if self._copies:
            strategy.run(self._drop)

    def _bring(self) -> None:
        index, local = self._present()
        weights = [weight for weight, _ in self._copies]
        if self._placement.group.is_single:
            values = [
                copies_of(weight)[owner].read_value() for weight, owner in zip(weights, self._owners, strict=True)
            ]
        else:
            own = [
                copy.read_value() if owner == index else tf.zeros(weight.shape, copy.dtype)
                for weight, copy, owner in self._here(local)
            ]
            values = self._placement.communicators[-1].broadcast(own, self._owners)
        for (_, copy, owner), value in zip(self._here(local), values, strict=True):
            if owner != index:
                with tf.device(copy.device):
                    fill_copy(copy, tf.identity(value))

    def _drop(self) -> None:
        index, local = self._present()
        for _, copy, owner in self._here(local):
            if owner != index:
                with tf.device(copy.device):
                    empty_copy(copy)

    def _present(self) -> tuple[int, int]:
        """Return the index of the present replica among all, and among those of this process."""
        index = self._placement.communicators[-1].replica_index
        return index, index - self._placement.first_replica

    def _here(self, local: int) -> list[tuple[keras.Variable, Any, int]]:
        """Return each weight with a replica's copy of it, and its owner."""
        return [
            (weight, placed.values[local], owner)
            for (weight, placed), owner in zip(self._copies, self._owners, strict=True)
        ]


def _alone(variables: Sequence[keras.Variable], owners: Mapping[int, int]) -> list[keras.Variable]:
    """Return the weights that their owners alone hold."""
    return [each for each in variables if id(each) in owners and has_single_copy(each)]
