"""A stage: a model on one mesh column, called as a pure function of weights, state and inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.private import own_losses, regularization_losses, seed_states

__all__: list[str] = []

# Odd and far apart modulo 2**32, so that the replicas' seeds do not meet.
_SEED_STRIDE = 0x9E3779B9


@dataclass(frozen=True)
class Forward:
    """What one forward call gives.

    Args:
        outputs: As the model returns them.
        head: What the head made of outputs, `add_loss` terms and penalties on weights.
        state: New values of the non-trainable variables, or None where one did not change.
    """

    outputs: Any
    head: Any
    state: list[tf.Tensor | None]


Head = Callable[[Any, list[tf.Tensor], list[tf.Tensor]], Any]


class Stage:
    """A model called without side effects.

    Args:
        model: The built model that holds the variables.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.weights = list(model.trainable_variables)
        self.state = list(model.non_trainable_variables)
        seeds = seed_states(model)
        self._is_seed = [id(variable) in seeds for variable in self.state]

    def read(self) -> list[tf.Tensor]:
        """Return this replica's trainable weights as tensors."""
        return [tf.identity(variable.value) for variable in self.weights]

    def forward(self, weights: list[tf.Tensor], x: Any, training: bool, replica_index: int, head: Head) -> Forward:
        """Call the model and its head.

        Args:
            weights: Values of the trainable variables.
            x: Inputs.
            training: As Keras means it.
            replica_index: Shifts the seeds, so that replicas draw different masks; 0 draws plain Keras's.
            head: Called with outputs, `add_loss` terms and penalties on weights.

        Returns:
            Outputs, the head's result and the new state.
        """
        old = [tf.identity(variable.value) for variable in self.state]
        shift = tf.constant([replica_index * _SEED_STRIDE % 2**32, 0], tf.uint32)
        start = [
            value + tf.cast(shift, value.dtype) if seed and replica_index else value
            for value, seed in zip(old, self._is_seed, strict=True)
        ]
        mapping = [*zip(self.weights, weights, strict=True), *zip(self.state, start, strict=True)]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            call = {"training": training} if self._model._call_has_training_arg else {}
            outputs = self._model(x, **call)
            result = head(outputs, own_losses(self._model), regularization_losses(self._model))
        state: list[tf.Tensor | None] = []
        for variable, first, seed in zip(self.state, start, self._is_seed, strict=True):
            last = scope.get_current_value(variable)
            last = last if tf.is_tensor(last) else first
            if seed and replica_index and last is not first:
                last = last - tf.cast(shift, last.dtype)
            state.append(None if last is first else last)
        return Forward(outputs, result, state)

    def commit(
        self, state: list[tf.Tensor | None], present: tf.Tensor, total: Callable[[list[Any]], list[Any]]
    ) -> None:
        """Write new state, equal on every replica.

        Seeds keep their own chain. Floats take the average change over the replicas that had rows: for
        BatchNorm's moving statistics, one momentum step with the averaged moments. Everything else is
        taken from the first replica with rows.

        Args:
            state: As `forward` returned it.
            present: Scalar float64, 1 where this replica had rows, else 0.
            total: Sums a list over the replicas.
        """
        shared = [
            (variable, new)
            for variable, new, seed in zip(self.state, state, self._is_seed, strict=True)
            if new is not None and not seed
        ]
        changes = []
        for variable, new in shared:
            change = (
                new - variable.value
                if new.dtype.is_floating
                else tf.cast(new, tf.int64) - tf.cast(variable.value, tf.int64)
            )
            changes.append(tf.where(present > 0, change, tf.zeros_like(change)))
        *sums, replicas = total([*changes, present])
        for (variable, new), change in zip(shared, sums, strict=True):
            if new.dtype.is_floating:
                variable.assign(variable.value + change / tf.cast(replicas, change.dtype))
            else:
                variable.assign(variable.value + tf.cast(change // tf.cast(replicas, tf.int64), new.dtype))
        for variable, new, seed in zip(self.state, state, self._is_seed, strict=True):
            if seed and new is not None:
                variable.assign(new)
