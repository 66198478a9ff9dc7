"""The update of a sharded optimizer: each weight is updated by one replica, its owner, and then copied to the others.

```text
             gradients                      update                     weights
replica 0    g0 ──┐                         weight a, its slots ──┐    a ── b
replica 1    g1 ──┴─► sum on the owner ──►  weight b, its slots ──┴──► a ── b
```

A weight that its owner alone holds (`shard="weights"`) stays there: the next step brings it to the others.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.copies import one_copy_each
from kparallel.compat.distribute import one_replica_view
from kparallel.compat.variables import copies_of, has_single_copy
from kparallel.engine.colocate import colocate_with_inputs
from kparallel.engine.optimizer_update import OptimizerUpdate

__all__: list[str] = []


class ShardedUpdate:
    """Applies an optimizer once for all replicas, each weight on the device of its owner.

    Keras's own code sees one list of weights, gradients and slots, as on one device, on several devices. So whatever it
    does with all of them together (a global norm, a check for infinite gradients, counting steps) happens once.

    Args:
        update: Applies the optimizer.
        owners: By the id of a weight, the index of its owner among the replicas.
    """

    def __init__(self, update: OptimizerUpdate, owners: Mapping[int, int]) -> None:
        self._update = update
        self._owners = owners

    def apply(self, gradients: list[Any], variables: list[keras.Variable]) -> None:
        """Apply summed gradients, of which each weight's owner has the right one. Call it in a replica's context."""
        known = [index for index, gradient in enumerate(gradients) if gradient is not None]
        run = partial(self._apply_once, known=known, variables=variables)
        tf.distribute.get_replica_context().merge_call(run, args=([gradients[index] for index in known],))

    def _apply_once(
        self,
        strategy: tf.distribute.Strategy,
        of_replicas: list[Any],
        known: list[int],
        variables: list[keras.Variable],
    ) -> None:
        """Update all weights.

        Args:
            strategy: The strategy of the replicas.
            of_replicas: The gradients that there are, each of all replicas.
            known: Their indices in `variables`.
            variables: All trainable weights.
        """
        owners = [self._owners.get(id(variable), 0) for variable in variables]
        gradients: list[Any] = [None] * len(variables)
        for index, gradient in zip(known, of_replicas, strict=True):
            # `of_replicas[i]` holds the gradient of all replicas; the owner's is the one that was summed.
            gradients[index] = strategy.experimental_local_results(gradient)[owners[index]]
        # A step of the user's own may name a weight by its `tf.Variable`. Outside a step all its copies are written.
        owned = [
            (variable, 0 if has_single_copy(variable) else owner)
            for variable, owner in zip(variables, owners, strict=True)
            if isinstance(variable, keras.Variable)
        ]
        with one_replica_view(), colocate_with_inputs():
            copied = [variable for variable, _ in owned if not has_single_copy(variable)]
            with one_copy_each(owned):
                self._update.apply(gradients, variables, copied=copied)
            # All weights, not those with a gradient alone: an average that overwrites the weights has all of them.
            for variable, index in owned:
                _copy_to_others(copies_of(variable), index)


def _copy_to_others(copies: tuple[tf.Variable, ...], owner: int) -> None:
    """Assign the owner's value of a weight to the other replicas' copies."""
    if len(copies) == 1:
        return
    with tf.device(copies[owner].device):
        value = copies[owner].read_value()
    for index, copy in enumerate(copies):
        if index != owner:
            with tf.device(copy.device):
                copy.assign(value)
