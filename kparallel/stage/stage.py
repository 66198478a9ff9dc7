"""A stage: some calls of a model on one mesh column, called as a pure function of weights, state and inputs.

Weights go in as tensors. A stage that captured variables would be a stateful call, and TensorFlow would then
run all stateful calls of a step one after another.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import whole_losses
from kparallel.compat.layers import (
    flatten_layers,
    float8_variables,
    of_other_rows,
    own_metrics,
    recurrent_states,
    seed_states,
)
from kparallel.compat.tensors import keras_logits, keras_mask, set_mask
from kparallel.errors import ModelError
from kparallel.metric.additive import noting_sums
from kparallel.stage.assignments import Assignments
from kparallel.stage.body import Body, trained
from kparallel.stage.dependence import Dependence, dependences
from kparallel.stage.state import RULES, End, Rule, State

__all__: list[str] = []


@dataclass(frozen=True)
class StateRules:
    """How parts of a batch go together in what a stage's call changes.

    Args:
        rules: One for each variable of the state.
        divided: Whether what the call assigns to each weight is another with other rows, or drawn at random.
    """

    rules: tuple[Rule, ...]
    divided: tuple[bool, ...]


@dataclass(frozen=True)
class Forward:
    """What one forward call gives.

    Args:
        outputs: The values the stage writes.
        masks: Keras's mask of each output, or None.
        logits: The logits behind each output, or None.
        added: What `add_loss` and activity regularizers gave.
        assigned: What the call assigned to the weights, in the order of `Stage.weights`; None to most.
        state: The state after the call, in the order of `Stage.state`; None where it does not change.
        state_rules: How parts of a batch go together in the state and in what is assigned.
    """

    outputs: list[Any]
    masks: list[Any]
    logits: list[Any]
    added: list[tf.Tensor]
    assigned: list[tf.Tensor | None]
    state: End
    state_rules: StateRules


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
        self.weights = [] if frozen else trained(body.layers())
        self.owned = [variable for variable in self.weights if id(variable) not in borrowed]
        self.overwritten = [index for index, variable in enumerate(self.weights) if variable.overwrite_with_gradient]
        self.float8 = float8_variables(self.layers)
        self.metrics = own_metrics(self.layers)
        metrics = [v for metric in self.metrics for v in metric.variables]
        weights = {id(variable) for variable in self.weights}
        carried = recurrent_states(self.layers)
        rest = {id(v): v for v in (*_variables(body), *metrics, *carried) if id(v) not in weights}
        seeds = {key for top in body.layers() for key in seed_states(top)}
        self.state = State(rest.values(), seeds, averaged_states(self.layers), {id(v) for v in carried})
        number = len(self.weights) + len(self.state.variables)
        self._default = self._rules_from([Dependence.OTHER] * number)
        self._state_rules: dict[Any, StateRules] = {}

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
            Outputs, masks, logits, added losses, and what was assigned to weights and state.

        Raises:
            ModelError: A layer makes a variable.
        """
        forward = self._called(weights, state, inputs, masks, training)
        return replace(forward, state_rules=self._rules_of(forward, (weights, state, inputs, masks), training))

    def state_rules(self, training: bool) -> StateRules:
        """Return what the last call in this mode found out, for calls that run it again."""
        return self._state_rules[training]

    def _called(
        self, weights: list[tf.Tensor], state: list[tf.Tensor], inputs: list[Any], masks: list[Any], training: bool
    ) -> Forward:
        for value, mask in zip(inputs, masks, strict=True):
            if mask is not None:
                set_mask(value, mask)
        values = list(zip(self.state.variables, state, strict=True))
        own = Assignments(zip(self.weights, weights, strict=True), values)
        rows = [pair for pair, rule in zip(values, self.state.known, strict=True) if rule is Rule.ROWS]
        with _refusing_new_variables(), of_other_rows(rows, self.layers), whole_losses(), own as scope:
            outputs = self._body(inputs, training)
        assigned = scope.changed(self.weights, weights)
        end = scope.changed(self.state.variables, state)
        output_masks, logits = (keras.tree.map_structure(read, outputs) for read in (keras_mask, keras_logits))
        added = [tf.convert_to_tensor(loss) for loss in scope.losses]
        return Forward(outputs, output_masks, logits, added, assigned, end, self._default)

    def _rules_of(self, forward: Forward, arguments: tuple[Any, ...], training: bool) -> StateRules:
        """Find out how parts of a batch go together in what a call changes, once for each set of changed variables."""
        open_ = [last if rule is None else None for last, rule in zip(forward.state, self.state.known, strict=True)]
        changed = [value is not None for value in (*forward.assigned, *open_)]
        key = (training, *changed)
        if key not in self._state_rules:
            known = self._default if not any(changed) else self._rules_from(self._dependences(arguments, training))
            self._state_rules[key] = known
        self._state_rules[training] = self._state_rules[key]
        return self._state_rules[key]

    def _rules_from(self, found: Sequence[Dependence]) -> StateRules:
        number = len(self.weights)
        rules = [rule or RULES[way] for rule, way in zip(self.state.known, found[number:], strict=True)]
        return StateRules(tuple(rules), tuple(way is not Dependence.NONE for way in found[:number]))

    def _dependences(self, arguments: tuple[Any, ...], training: bool) -> list[Dependence]:
        """Return how what a call assigns to each weight and each variable of the state depends on the rows."""
        added: set[int] = set()

        def updates(weights: Any, state: Any, inputs: Any, masks: Any) -> tuple[list[Any], list[Any], list[Any]]:
            with noting_sums(self.metrics, added):
                again = self._called(weights, state, inputs, masks, training)
            random = [value for value, rule in zip(state, self.state.known, strict=True) if rule is Rule.SEED]
            return [*weights, *state], [*again.assigned, *again.state], random

        held = [rule is Rule.ROWS for rule in self.state.known]
        found = dependences(updates, arguments, held)
        known = [id(variable) in added for variable in (*self.weights, *self.state.variables)]
        return [Dependence.SUM if sums else way for way, sums in zip(found, known, strict=True)]


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


def _variables(body: Body) -> list[keras.Variable]:
    return [variable for top in body.layers() for variable in top.variables]
