"""The update of an optimizer that is sharded over workers: each updates the weights that its replicas own.

```text
             gradients                   agreement              update                     weights
worker 0     g0 ──┐                      norm, finite? ──┐      weight a, its slots ──┐    a ── b
worker 1     g1 ──┴─► sum on the owner   norm, finite? ──┴──►   weight b, its slots ──┴──► a ── b
```

Keras's own code runs on each worker as if the model had the weights alone that are owned there. What it computes from
all gradients together, a global norm and whether they are finite, the workers agree on before.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.copies import one_copy_each
from kparallel.compat.distribute import one_replica_view
from kparallel.compat.optimizers import accumulated, optimizers_in, replaced_methods, trained_by
from kparallel.compat.updates import as_with_all_gradients, training_only
from kparallel.compat.variables import copies_of, has_single_copy
from kparallel.engine.colocate import colocate_with_inputs
from kparallel.engine.optimizer_update import OptimizerUpdate
from kparallel.engine.placement import Placement
from kparallel.engine.replica import Replica
from kparallel.engine.weight_by_weight import check_weight_by_weight
from kparallel.errors import ModelError, PlanError

__all__: list[str] = []


class WorkersUpdate:
    """Applies an optimizer on each worker to the weights that are owned there, and gives all workers the new weights.

    Args:
        update: Applies the optimizer.
        optimizer: The compiled optimizer.
        owners: By the id of a weight, the index of its owner among the replicas of all workers.
        placement: The replicas of this process.
        shard: What the replicas share out: `"optimizer"` (default) or `"weights"`.

    Raises:
        ModelError: The optimizer, or one that it holds, has a method that was replaced.
    """

    def __init__(
        self,
        update: OptimizerUpdate,
        optimizer: Any,
        owners: Mapping[int, int],
        placement: Placement,
        shard: str = "optimizer",
    ) -> None:
        self._update = update
        self._optimizer = optimizer
        self._optimizers = optimizers_in(optimizer)
        self._owners = owners
        self._placement = placement
        self._shard = shard
        self._checked = False  # Whether the optimizers have been looked into that are of the user's own.
        for each in self._optimizers:
            for name in replaced_methods(each):
                raise ModelError(
                    f"Expected an optimizer with the methods of its class with shard={shard!r} over several workers, "
                    f"received {type(each).__name__} with another {name}, which would see this worker's weights alone. "
                    "Say shard=None."
                )

    def apply(self, gradients: list[Any], variables: list[keras.Variable], replica: Replica) -> None:
        """Apply summed gradients, of which each weight's owner has the right one. Call it in a replica's context.

        Args:
            gradients: Of each weight; None where there is none.
            variables: The trainable weights.
            replica: The present replica.

        Raises:
            ModelError: An optimizer of the user's own does not update each weight by itself.
            PlanError: A worker has no weight to update.
        """
        self._check_all_update(gradients, variables)
        if not self._checked:
            for each in self._optimizers:
                check_weight_by_weight(each, gradients, variables, self._shard)
            self._checked = True
        with tf.name_scope("agreement"):
            agreed = self._agreement(gradients, variables, replica)
        known = [index for index, gradient in enumerate(gradients) if gradient is not None]
        run = partial(self._apply_here, known=known, variables=variables)
        arguments = ([gradients[index] for index in known], agreed)
        tf.distribute.get_replica_context().merge_call(run, args=arguments)
        written = [variables[index] for index in known]
        if any(each.use_ema and each.ema_overwrite_frequency for each in self._optimizers):
            # An average overwrites weights without a gradient too, and those that were frozen since.
            written = self._weights(variables)
        # A weight that its owner alone holds stays there: the next step brings it to the others.
        self._spread([weight for weight in written if not has_single_copy(weight)], replica)

    def _weights(self, variables: Iterable[keras.Variable]) -> list[keras.Variable]:
        """Return all weights that the optimizer may write, in an order that is the same on all workers."""
        trained = [weight for each in self._optimizers for weight in trained_by(each)]
        return list({id(weight): weight for weight in [*variables, *trained] if id(weight) in self._owners}.values())

    def _check_all_update(self, gradients: list[Any], variables: list[keras.Variable]) -> None:
        """Refuse a model that leaves nothing to update for some worker: it would not count steps as the others do."""
        per_worker = len(self._placement.rows)
        workers = set(range(self._placement.group.workers))
        for optimizer in self._optimizers:
            trained = set(map(id, trained_by(optimizer)))
            owners = [
                self._owners[id(variable)] // per_worker
                for gradient, variable in zip(gradients, variables, strict=True)
                if gradient is not None and id(variable) in trained and not _is_overwritten(variable)
            ]
            idle = sorted(workers - set(owners))
            if owners and idle:
                raise PlanError(
                    f"Expected a weight to update for each of {len(workers)} workers with shard={self._shard!r}, "
                    f"received {len(owners)} weights with a gradient for {type(optimizer).__name__}, of which worker "
                    f"{idle[0]} owns none. Say shard=None."
                )

    def _agreement(
        self, gradients: list[Any], variables: list[keras.Variable], replica: Replica
    ) -> tuple[Any, dict[int, Any]]:
        """Return whether all gradients are finite, and for each optimizer the norm of what other workers have.

        ```text
        one vector     [ infinite gradients of replica 0, 1, ... | squares of optimizer 0 of replica 0, 1, ... | ... ]
        ```
        """
        own = [
            (gradient, variable)
            for gradient, variable in zip(gradients, variables, strict=True)
            if gradient is not None and self._owners[id(variable)] == replica.index
        ]
        scaled = isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer)
        clipping = [each for each in self._optimizers if each.global_clipnorm]
        numbers = [_count_infinite(own)] if scaled else []
        numbers += [self._squares(each, own) for each in clipping]
        if not numbers:
            return None, {}
        with replica.on_last_device():
            spots = tf.one_hot(replica.index, replica.replicas, dtype=tf.float64)
            # Not a product: infinity times zero is no number.
            vector = tf.concat([tf.where(spots > 0, number, tf.zeros_like(spots)) for number in numbers], 0)
            totals = tf.split(replica.last.all_reduce([vector])[0], len(numbers))
            finite = tf.equal(tf.reduce_sum(totals.pop(0)), 0) if scaled else None
            first, number = self._placement.first_replica, len(self._placement.rows)
            elsewhere = [tf.reduce_sum(tf.concat([total[:first], total[first + number :]], 0)) for total in totals]
            steps = [each.gradient_accumulation_steps or 1 for each in clipping]
            rests = {
                id(each): tf.sqrt(square) / count
                for each, square, count in zip(clipping, elsewhere, steps, strict=True)
            }
        return finite, rests

    def _squares(self, optimizer: Any, own: list[tuple[Any, keras.Variable]]) -> tf.Tensor:
        """Return the sum of the squares of what an optimizer clips, of the gradients that this replica owns."""
        trained = set(map(id, trained_by(optimizer)))
        scale = optimizer.loss_scale_factor
        if isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer):
            scale = self._optimizer.dynamic_scale
        total = tf.zeros((), tf.float64)
        for gradient, variable in own:
            if id(variable) not in trained or _is_overwritten(variable):
                continue
            clipped = gradient if scale is None else keras.ops.divide(gradient, scale)
            earlier = accumulated(optimizer, variable)
            clipped = clipped if earlier is None else clipped + earlier
            total += tf.cast(keras.ops.sum(keras.ops.square(clipped)), tf.float64)
        return total

    def _apply_here(
        self,
        strategy: tf.distribute.Strategy,
        of_replicas: list[Any],
        agreed: tuple[Any, dict[int, Any]],
        known: list[int],
        variables: list[keras.Variable],
    ) -> None:
        """Update the weights that this worker's replicas own.

        Args:
            strategy: The strategy of the replicas.
            of_replicas: The gradients that there are, each of all replicas of this process.
            agreed: The result of `_agreement`, of all of them.
            known: The gradients' indices in `variables`.
            variables: The trainable weights.
        """
        finite, rests = tf.nest.map_structure(lambda each: strategy.experimental_local_results(each)[0], agreed)
        first, number = self._placement.first_replica, len(self._placement.rows)
        here = [
            (weight, self._owners[id(weight)] - first)
            for weight in self._weights(variables)
            if first <= self._owners[id(weight)] < first + number
        ]
        replica_of = {id(weight): index for weight, index in here}
        copies = [(weight, 0 if has_single_copy(weight) else index) for weight, index in here]
        gradients: list[Any] = [None] * len(variables)
        for index, gradient in zip(known, of_replicas, strict=True):
            if id(variables[index]) in replica_of:
                results = strategy.experimental_local_results(gradient)
                gradients[index] = results[replica_of[id(variables[index])]]
        chosen = [index for index, variable in enumerate(variables) if id(variable) in replica_of]
        with (
            one_replica_view(),
            colocate_with_inputs(),
            one_copy_each(copies),
            training_only(self._optimizers, lambda weight: id(weight) in replica_of),
            as_with_all_gradients(self._optimizer, finite, rests),
        ):
            self._update.apply([gradients[index] for index in chosen], [variables[index] for index in chosen])

    def _spread(self, written: list[keras.Variable], replica: Replica) -> None:
        """Give this replica the values of weights that their owners have written."""
        stages = replica.pipeline.stages
        last = len(stages) - 1
        stage_of = {id(weight): s for s, stage in enumerate(stages) for weight in stage.owned}
        local = replica.index - self._placement.first_replica
        # As the backward pass ends, the last stage's weights are updated first.
        for s in reversed(range(len(stages))):
            weights = [weight for weight in written if stage_of.get(id(weight), last) == s]
            if not weights:
                continue
            copies = [copies_of(weight)[local] for weight in weights]
            owners = [self._owners[id(weight)] for weight in weights]
            with tf.name_scope(f"reduce{s}"), replica.stage_devices[s].reduction():
                values = replica.communicators[s].broadcast([copy.read_value() for copy in copies], owners)
                for copy, owner, value in zip(copies, owners, values, strict=True):
                    if owner != replica.index:
                        copy.assign(value)


def _is_overwritten(variable: keras.Variable) -> bool:
    """Tell whether a gradient is the new value of a variable, as of a float8 layer's scales."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def _count_infinite(own: list[tuple[Any, keras.Variable]]) -> tf.Tensor:
    """Return how many gradients are not finite."""
    finite = [keras.ops.all(keras.ops.isfinite(gradient)) for gradient, _ in own]
    return tf.add_n([tf.cast(tf.logical_not(each), tf.float64) for each in finite] or [tf.zeros((), tf.float64)])
