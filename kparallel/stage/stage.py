"""A stage: some calls of a model on one mesh column, called as a pure function of weights, state and inputs.

```text
weights [w] ──┐                      ┌─► outputs     one Value for each number that the stage writes
state   [v] ──┼─► Stage.forward ─────┼─► added       the values of `add_loss`
inputs      ──┘  (writes nothing)    └─► assigned [w], state [v]: new values, None where nothing changes
```

Weights are passed as tensors. A stage that captured variables would be a stateful call, and TensorFlow would run all
stateful calls of a step one after another.
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
from kparallel.compat.tensors import set_mask
from kparallel.errors import ModelError
from kparallel.metric.additive import noting_sums
from kparallel.stage.assignments import Assignments
from kparallel.stage.body import Body, trained
from kparallel.stage.dependence import Dependence
from kparallel.stage.state import RULES, End, Rule, State
from kparallel.stage.traced_dependence import dependences
from kparallel.stage.value import Value

__all__: list[str] = []


@dataclass(frozen=True)
class StateRules:
    """How the changes that a stage's call makes on the parts of a batch are combined.

    Args:
        rules: `[v]`: the rule of each variable of the state.
        divided: `[w]`: whether the value assigned to a weight depends on the rows or is random, so that parts differ.
    """

    rules: tuple[Rule, ...]
    divided: tuple[bool, ...]


@dataclass(frozen=True)
class Forward:
    """The result of one forward call.

    Args:
        outputs: The values that the stage writes.
        added: The losses from `add_loss` and activity regularizers.
        assigned: `[w]`: the value that the call assigned to a weight, None for most weights.
        state: `[v]`: the state after the call, None where it does not change.
        state_rules: How these changes are combined over the parts of a batch.
    """

    outputs: list[Value]
    added: list[tf.Tensor]
    assigned: list[tf.Tensor | None]
    state: End
    state_rules: StateRules


def averaged_states(layers: Iterable[keras.layers.Layer]) -> set[int]:
    """Return the ids of BatchNorm's moving statistics: a batch moves them once, by the average over its parts."""
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and layer.built]
    return {id(variable) for norm in norms for variable in (norm.moving_mean, norm.moving_variance)}


class Stage:
    """A computation and the variables that it reads.

    Args:
        body: The computation.
        reads: The numbers of the values that the stage receives.
        writes: The numbers of the values that it returns.
        borrowed: The ids of variables that another stage owns (tied weights).
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
        # `overwritten`: the indices of weights whose "gradient" is their new value (float8).
        self.owned = [variable for variable in self.weights if id(variable) not in borrowed]
        self.overwritten = [index for index, variable in enumerate(self.weights) if variable.overwrite_with_gradient]
        self.float8 = float8_variables(self.layers)
        self.metrics = own_metrics(self.layers)
        # State is every other variable that the call may read or change: of the layers, of the metrics that they
        # update, and of stateful recurrent layers, whose states are not among a layer's `variables`.
        metrics = [v for metric in self.metrics for v in metric.variables]
        weights = {id(variable) for variable in self.weights}
        recurrent = recurrent_states(self.layers)
        state_by_id = {id(v): v for v in (*_variables(body), *metrics, *recurrent) if id(v) not in weights}
        seeds = {key for top in body.layers() for key in seed_states(top)}
        self.state = State(state_by_id.values(), seeds, averaged_states(self.layers), {id(v) for v in recurrent})
        # Used while nothing changes; rules are found when a call changes something.
        number = len(self.weights) + len(self.state.variables)
        self._default = self._rules_from([Dependence.OTHER] * number)
        # By (training, which variables changed), and by `training` alone those of the last call.
        self._state_rules: dict[Any, StateRules] = {}

    def forward(self, weights: list[tf.Tensor], state: list[tf.Tensor], inputs: list[Value], training: bool) -> Forward:
        """Call the stage without side effects.

        Args:
            weights: `[w]`: the values of `weights`.
            state: `[v]`: the values of `state`.
            inputs: The values that the stage reads; their logits are not used.
            training: Keras's `training` argument.

        Returns:
            Outputs, added losses, and the new values of weights and state.

        Raises:
            ModelError: A layer creates a variable.
        """
        forward = self._called(weights, state, inputs, training)
        return replace(forward, state_rules=self._rules_of(forward, (weights, state, inputs), training))

    def state_rules(self, training: bool) -> StateRules:
        """Return the rules that the last traced call found, for calls that reuse its trace."""
        return self._state_rules[training]

    def _called(self, weights: list[tf.Tensor], state: list[tf.Tensor], inputs: list[Value], training: bool) -> Forward:
        # The inputs have passed through a `tf.function`, which drops attributes.
        for value in inputs:
            if value.mask is not None:
                set_mask(value.tensor, value.mask)
        values = list(zip(self.state.variables, state, strict=True))
        assignments = Assignments(zip(self.weights, weights, strict=True), values)
        # State by rows comes with the rows of one microbatch, so Keras's check of the batch size must not apply.
        rows = [pair for pair, rule in zip(values, self.state.known, strict=True) if rule is Rule.ROWS]
        with _refusing_new_variables(), of_other_rows(rows, self.layers), whole_losses(), assignments as scope:
            outputs = self._body([value.tensor for value in inputs], training)
        assigned = scope.changed(self.weights, weights)
        end = scope.changed(self.state.variables, state)
        added = [tf.convert_to_tensor(loss) for loss in scope.losses]
        return Forward([Value.of(output) for output in outputs], added, assigned, end, self._default)

    def _rules_of(self, forward: Forward, arguments: tuple[Any, ...], training: bool) -> StateRules:
        """Return the rules of what a call changed. They are found once for each set of changed variables."""
        # Variables with a known rule need no analysis, which costs another trace of the stage.
        undecided = [end if rule is None else None for end, rule in zip(forward.state, self.state.known, strict=True)]
        changed = [value is not None for value in (*forward.assigned, *undecided)]
        # `changed` has a flag for each weight and then for each state variable without a known rule.
        key = (training, *changed)
        if key not in self._state_rules:
            rules = self._default if not any(changed) else self._rules_from(self._dependences(arguments, training))
            self._state_rules[key] = rules
        self._state_rules[training] = self._state_rules[key]
        return self._state_rules[key]

    def _rules_from(self, by_variable: Sequence[Dependence]) -> StateRules:
        number = len(self.weights)  # Weights come first, then the state.
        rules = [rule or RULES[each] for rule, each in zip(self.state.known, by_variable[number:], strict=True)]
        return StateRules(tuple(rules), tuple(each is not Dependence.NONE for each in by_variable[:number]))

    def _dependences(self, arguments: tuple[Any, ...], training: bool) -> list[Dependence]:
        """Return how the new value of each weight, then of each state variable, depends on the rows."""
        # Ids of the variables of Keras's own metrics that were updated with rows. They add a sum over the rows,
        # though the graph does not always show it.
        added: set[int] = set()

        def updates(weights: Any, state: Any, inputs: Any, masks: Any) -> tuple[list[Any], list[Any], list[Any]]:
            with noting_sums(self.metrics, added):
                forward = self._called(weights, state, list(map(Value, inputs, masks)), training)
            random = [value for value, rule in zip(state, self.state.known, strict=True) if rule is Rule.SEED]
            return [*weights, *state], [*forward.assigned, *forward.state], random

        by_rows = [rule is Rule.ROWS for rule in self.state.known]
        weights, state, inputs = arguments
        masks = [value.mask for value in inputs]
        by_variable = dependences(updates, (weights, state, [value.tensor for value in inputs], masks), by_rows)
        are_sums = [id(variable) in added for variable in (*self.weights, *self.state.variables)]
        return [Dependence.SUM if is_sum else each for each, is_sum in zip(by_variable, are_sums, strict=True)]


@contextmanager
def _refusing_new_variables() -> Iterator[None]:
    """Translate TensorFlow's error about a layer that creates a variable while it is called."""
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
