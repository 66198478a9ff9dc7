"""A stage: some calls of a model on one mesh column, called as a pure function of weights, state and inputs.

Weights go in as tensors. A stage that captured variables would be a stateful call, and TensorFlow would then
run all stateful calls of a step one after another.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.errors import ModelError
from kparallel.metric.additive import refuse_updates
from kparallel.private import (
    flatten_layers,
    keras_logits,
    keras_mask,
    own_metrics,
    seed_states,
    set_mask,
)
from kparallel.stage.body import Body, trained

__all__: list[str] = []

# Odd and far apart modulo 2**32, so that the replicas' seeds do not meet.
_SEED_STRIDE = 0x9E3779B9


@dataclass(frozen=True)
class Forward:
    """What one forward call gives.

    Args:
        outputs: The values the stage writes.
        masks: Keras's mask of each output, or None.
        logits: The logits behind each output, or None.
        added: What `add_loss` and activity regularizers gave.
        state: The state after the call, in the order of `Stage.state`; None where it does not change.
    """

    outputs: list[Any]
    masks: list[Any]
    logits: list[Any]
    added: list[tf.Tensor]
    state: list[tf.Tensor | None]


def averaged_states(layers: Iterable[keras.layers.Layer]) -> set[int]:
    """Return the ids of the variables that take one step with the microbatches' average: BatchNorm's."""
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and layer.built]
    return {id(variable) for norm in norms for variable in (norm.moving_mean, norm.moving_variance)}


class Stage:
    """A body with the variables it reads.

    Args:
        body: What to compute.
        reads: Numbers of the values that come in.
        writes: Numbers of the values that go out.
        borrowed: Ids of variables that another stage owns (tied weights).
        frozen: Whether the model is frozen as a whole, so that nothing trains.
    """

    def __init__(
        self,
        body: Body,
        reads: tuple[int, ...],
        writes: tuple[int, ...],
        borrowed: frozenset[int] = frozenset(),
        frozen: bool = False,
    ) -> None:
        self._body = body
        self.reads = reads
        self.writes = writes
        self.layers = [layer for top in body.layers() for layer in flatten_layers(top)]
        self._metrics = own_metrics(self.layers)
        self.weights = [] if frozen else trained(body.layers())
        self.owned = [variable for variable in self.weights if id(variable) not in borrowed]
        weights = {id(variable) for variable in self.weights}
        rest = {id(v): v for top in body.layers() for v in top.variables if id(v) not in weights}
        self.state: list[keras.Variable] = list(rest.values())
        seeds = {key for top in body.layers() for key in seed_states(top)}
        self.is_seed = [id(variable) in seeds for variable in self.state]
        averaged = averaged_states(self.layers)
        self.is_averaged = [id(variable) in averaged for variable in self.state]

    def read(self, in_place: bool = False) -> list[tf.Tensor]:
        """Return this replica's trainable weights as tensors.

        Args:
            in_place: Whether to leave each weight on its own device, where layers have devices of their own.
        """
        if not in_place:
            return [tf.identity(variable.value) for variable in self.weights]
        weights = []
        for variable in self.weights:
            with tf.device(variable.value.values[0].device):
                weights.append(tf.identity(variable.value))
        return weights

    def read_state(self, replica_index: int) -> list[tf.Tensor]:
        """Return this replica's state as tensors.

        Args:
            replica_index: Shifts the seeds, so that replicas draw different masks; 0 draws plain Keras's.
        """
        shift = self._shift(replica_index)
        return [
            tf.identity(variable.value) + tf.cast(shift, variable.value.dtype)
            if seed and replica_index
            else tf.identity(variable.value)
            for variable, seed in zip(self.state, self.is_seed, strict=True)
        ]

    def forward(
        self, weights: list[tf.Tensor], state: list[tf.Tensor], inputs: list[Any], masks: list[Any], training: bool
    ) -> Forward:
        """Call the stage without side effects.

        Args:
            weights: Values of `weights`.
            state: Values of `state`.
            inputs: The values that the stage reads.
            masks: Keras's mask of each input, or None.
            training: As Keras means it.

        Returns:
            Outputs, masks, logits, added losses and the new state.

        Raises:
            ModelError: A layer makes a variable, or assigns a trainable weight or a metric.
        """
        for value, mask in zip(inputs, masks, strict=True):
            if mask is not None:
                set_mask(value, mask)
        mapping = [*zip(self.weights, weights, strict=True), *zip(self.state, state, strict=True)]
        own = _Assigning(state_mapping=mapping, collect_losses=True)
        with _refusing_new_variables(), own as scope:
            outputs = self._body(inputs, training)
        _refuse_assigned(zip(self.weights, weights, strict=True), scope)
        refuse_updates(self._metrics, scope, "a layer's call", "Update it in the model's compute_metrics.")
        new: list[tf.Tensor | None] = []
        for variable, (_, first) in zip(self.state, mapping[len(self.weights) :], strict=True):
            last = scope.get_current_value(variable)
            new.append(last if tf.is_tensor(last) and last is not first else None)
        output_masks, logits = (keras.tree.map_structure(read, outputs) for read in (keras_mask, keras_logits))
        return Forward(outputs, output_masks, logits, [tf.convert_to_tensor(loss) for loss in scope.losses], new)

    def changes(self, start: list[tf.Tensor], ends: list[list[tf.Tensor | None]], present: bool) -> list[tf.Tensor]:
        """Return by how much this replica's rows change the state that the replicas share: floats and int64.

        BatchNorm's moving statistics start every microbatch from the same value, so that the average over
        the microbatches, then over the replicas that had rows, is one momentum step with the averaged
        moments. Other floats take the average change over these replicas, integers the common change.

        Args:
            start: The state before the batch, as `read_state` gave it.
            ends: The state after each microbatch, in order.
            present: Whether this replica had rows; without them nothing changes.
        """
        changes = []
        for index in self._shared(ends):
            first, last = start[index], ends[-1][index]
            if self.is_averaged[index]:
                last = tf.add_n([end[index] for end in ends]) / float(len(ends))
            change = last - first if first.dtype.is_floating else tf.cast(last, tf.int64) - tf.cast(first, tf.int64)
            changes.append(change if present else tf.zeros_like(change))
        return changes

    def commit(
        self,
        start: list[tf.Tensor],
        ends: list[list[tf.Tensor | None]],
        sums: list[tf.Tensor],
        replicas: tf.Tensor,
        replica_index: int,
    ) -> None:
        """Write the state after a batch, equal on every replica but for the seeds' own chains.

        Args:
            start, ends: As `changes` takes them.
            sums: What `changes` returned, summed over the replicas.
            replicas: How many replicas had rows, a float64 scalar.
            replica_index: As in `read_state`.
        """
        for index, change in zip(self._shared(ends), sums, strict=True):
            first = start[index]
            if change.dtype.is_floating:
                self.state[index].assign(first + change / tf.cast(replicas, change.dtype))
            else:
                self.state[index].assign(first + tf.cast(change // tf.cast(replicas, tf.int64), first.dtype))
        shift = self._shift(replica_index)
        for index, last in enumerate(ends[-1]):
            if self.is_seed[index] and last is not None:
                self.state[index].assign(last - tf.cast(shift, last.dtype) if replica_index else last)

    def _shared(self, ends: list[list[tf.Tensor | None]]) -> list[int]:
        """Return the indices of the changed state that is no seed's."""
        return [i for i, last in enumerate(ends[-1]) if last is not None and not self.is_seed[i]]

    def chain(self, state: list[tf.Tensor], end: list[tf.Tensor | None]) -> list[tf.Tensor]:
        """Return the state from which the next microbatch starts: BatchNorm's from the batch's, all else on."""
        return [
            first if averaged or last is None else last
            for first, last, averaged in zip(state, end, self.is_averaged, strict=True)
        ]

    def _shift(self, replica_index: int) -> tf.Tensor:
        return tf.constant([replica_index * _SEED_STRIDE % 2**32, 0], tf.uint32)


class _Assigning(keras.StatelessScope):  # type: ignore[misc]
    """Holds assignments back. What is read after one has no gradient, as nothing flows back through a variable."""

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        super().add_update((variable, tf.stop_gradient(value)))


@contextmanager
def _refusing_new_variables() -> Iterator[None]:
    """Say what TensorFlow means when a layer makes a variable while it is called."""
    try:
        yield
    except ValueError as error:
        if "singleton tf.Variables" not in str(error):
            raise
        raise ModelError(
            "A layer makes a variable while it is called, as keras.random's functions do without a seed: they draw "
            "from a seed that is global. Make variables in build, and pass seed=self.seed_generator, a "
            "keras.random.SeedGenerator that the layer makes in its constructor."
        ) from error


def _refuse_assigned(weights: Iterable[tuple[keras.Variable, tf.Tensor]], scope: Any) -> None:
    """Make sure that a call has assigned no trainable weight: its optimizer's step starts from the value before."""
    for variable, before in weights:
        if scope.get_current_value(variable) is not before:
            raise ModelError(
                f"Weight {variable.path!r} is trainable and is assigned while its layer is called, as "
                "SpectralNormalization does. That is not supported: leave such a layer out, or freeze it."
            )
