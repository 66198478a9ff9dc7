"""Runs the actions of one replica for one batch, in the order of any schedule.

```text
stage (device)        0                    1                    2
forward     x[m] ─► F ─► values ─────────► F ─► values ───────► F ─► outputs ─► loss stage
backward            B ◄── cotangents ◄──── B ◄── cotangents ◄── B ◄── cotangents ◄──┘
                    └► gradients of the weights of the stage, added up over the microbatches
```

A schedule with `W` splits the last line off: `B` leaves the gradients of the stage's activations, and `W` computes
those of the weights from them.

Values and cotangents are stored by microbatch, under the number that the model's graph gives the value: stage 2 may
read a value that stage 0 wrote. Each action runs on its stage's device, after the previous action of the same lane.
Without this order every schedule would be traced to the same unordered graph, and TensorFlow would run it in any order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import add
from kparallel.engine.lane_order import LaneOrder
from kparallel.engine.loss_stage import Cotangent, OutputStage
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.shared_writes import refuse_shared_writes
from kparallel.engine.sparse_gradients import MicrobatchSlices, accumulated
from kparallel.engine.split_function import SplitFunction
from kparallel.engine.stage_call import StageCall, TapedCall
from kparallel.engine.stage_function import StageFunction
from kparallel.loss.term import added_term
from kparallel.schedule.action import BACKWARD, FORWARD, WEIGHT, Action
from kparallel.stage.state import RowRange
from kparallel.stage.value import Value, copied, differentiable, is_differentiable

__all__: list[str] = []


@dataclass
class _SavedForward:
    """The inputs of one (stage, microbatch) and, unless it is to be recomputed, the call that can be differentiated."""

    inputs: list[Value]
    state: list[Any]
    call: StageCall | None = None


class Executor:
    """One replica's work on one batch.

    Args:
        replica: Has the stages and their devices.
        functions: One for each stage: (weights, state, inputs) to `Forward`.
        lanes: The lane of each stage; actions of one lane run one after another.
        row_ranges: The rows of the batch that each microbatch has.
        outputs: Receives the last stage's outputs and returns their cotangents.
        keeps_tape: A predicate: does (stage, microbatch) keep its tape? If not, the backward pass recomputes it.
        splits: For schedules that split backward passes, and for weights that are brought for each action: one for each
            stage, None where a stage cannot be split: then `B` computes all gradients.
    """

    def __init__(
        self,
        replica: Replica,
        functions: Sequence[StageFunction],
        lanes: Sequence[int],
        row_ranges: Sequence[RowRange],
        outputs: OutputStage,
        keeps_tape: Callable[[int, int], bool],
        splits: Sequence[SplitFunction | None] = (),
    ) -> None:
        self._pipeline = replica.pipeline
        self._devices = replica.stage_devices
        self._functions = functions
        self._row_ranges = tuple(row_ranges)
        self._outputs = outputs
        self._keeps_tape = keeps_tape
        self._splits = splits
        self._has_weight_actions = False
        self._result = ReplicaResult.before(replica, [rows.count for rows in row_ranges])
        self._lanes = LaneOrder(lanes, self._devices, self._result.weights)
        # `[s][v]`: the state with which the stage's next microbatch starts.
        self._state = [list(state) for state in self._result.start]
        # `[m][number]`: what travels between stages. A value stays here until the step ends, since a later stage may
        # read it; a cotangent is removed when the stage that wrote the value runs backward.
        self._values: list[dict[int, Value]] = [{} for _ in row_ranges]
        self._cotangents: list[dict[int, Cotangent]] = [{} for _ in row_ranges]
        # `[s, m]`: from the forward action to the backward action, and from `B` to `W` where that is split.
        self._saved: dict[tuple[int, int], _SavedForward] = {}
        self._half_differentiated: dict[tuple[int, int], StageCall] = {}

    def run(self, order: Sequence[Action], inputs: Sequence[Any]) -> ReplicaResult:
        """Run the actions and return what they leave.

        Args:
            order: The actions, each after those that it depends on. The last batch of an epoch may have fewer
                microbatches than the schedule; the actions of missing ones are skipped.
            inputs: `[m]`: each microbatch's inputs, as the model takes them.
        """
        # The inputs are values too: each stage that reads one copies it to its own device.
        for m, x in enumerate(inputs):
            self._values[m].update(self._pipeline.feed(x))
        self._has_weight_actions = any(action.kind == WEIGHT for action in order)
        run_action = {FORWARD: self._forward, BACKWARD: self._backward, WEIGHT: self._weight}
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with refuse_shared_writes(replicas * len(self._result.counts)):
            for action in order:
                if action.microbatch >= len(self._result.counts):
                    self._take_part(action)
                    continue
                with tf.name_scope(str(action)):  # `kparallel.trace` recognizes actions in a profile by this name.
                    run_action[action.kind](action.stage, action.microbatch)
        return self._result

    def _take_part(self, action: Action) -> None:
        """Take part in what workers exchange for an action on a microbatch that this replica's share is too small for.

        Every worker launches the same collectives in the same order.
        """
        is_last = action.stage == len(self._devices) - 1
        if self._result.weights.come_from_workers(action.stage):
            self._lanes.weights(action.stage)
            if is_last and action.kind == BACKWARD:
                self._outputs.added_factors(action.stage)  # Summed over the workers.
        if is_last and action.kind == FORWARD:
            self._outputs.miss()

    def _forward(self, s: int, m: int) -> None:
        stage, weights = self._pipeline.stages[s], self._lanes.weights(s)
        with tf.device(self._devices[s].name), self._lanes.after_previous(s):
            # The copies belong to this action: they arrive on its device, and the control edge holds them back. Without
            # them an operation whose inputs are ready would run before the lane's previous action.
            inputs = [self._values[m][number].copied() for number in stage.reads]
            saved = _SavedForward(inputs, stage.state.of_rows(self._state[s], self._row_ranges[m]))
            if self._outputs.training and self._keeps_tape(s, m):
                saved.call = self._call(s, m, saved, weights)
                forward, added = saved.call.forward, saved.call.added
            else:
                forward = self._functions[s](weights, saved.state, saved.inputs)
                added = [added_term(value, self._result.counts[m]) for value in forward.added]
        self._outputs.terms.set_added(s, m, added)
        if self._outputs.training:
            self._saved[s, m] = saved
        if m == 0:
            # `commit` refuses an assigned value that differs between microbatches or replicas, so one is enough.
            self._result.assigned[s] = forward.assigned
        # The rules are the same for each microbatch: they follow from the graph of the stage.
        self._result.rules[s] = forward.state_rules
        self._result.ends[s].append(forward.state)
        self._state[s] = stage.state.chain(self._state[s], forward.state, forward.state_rules.rules)
        self._values[m].update(zip(stage.writes, forward.outputs, strict=True))
        self._lanes.finish(s, [value.tensor for value in forward.outputs])
        if s == len(self._devices) - 1:
            with tf.device(self._devices[s].name):
                outputs = self._pipeline.fetch(self._values[m])
            self._outputs.take(m, outputs)

    def _call(self, s: int, m: int, saved: _SavedForward, weights: list[Any]) -> StageCall:
        """Call a stage on one microbatch such that the call can be differentiated."""
        rows = self._result.counts[m]
        split = self._splits[s] if self._splits else None
        if split is not None:
            return split.call(weights, saved.state, saved.inputs, rows)
        received = self._received(s, saved)
        arguments = weights, saved.state, saved.inputs
        return TapedCall(self._functions[s], self._devices[s], *arguments, received, rows)

    def _backward(self, s: int, m: int) -> None:
        """Differentiate one stage's forward pass: cotangents of its outputs in, cotangents of its inputs out.

        ```text
        cotangents[m][writes] ─┐
                               ├─► StageCall ─► received ─► cotangents[m][reads]     (earlier stages)
        factors of add_loss ───┘            └─► weights ──► gradients[s]             (summed over m; in `W` if split)
        ```
        """
        if s == len(self._devices) - 1:
            # The losses have no action of their own: the last stage's backward action differentiates them first.
            self._add_cotangents(m, self._outputs.cotangents(m))
        saved, weights = self._saved.pop((s, m)), self._lanes.weights(s)
        with tf.device(self._devices[s].name), self._lanes.after_previous(s):
            if saved.call is None:
                # Recompute from copies, which the control edge delays until after the lane's previous action. From the
                # same tensors TensorFlow's common-subexpression elimination would merge the recomputation with the
                # first forward pass, and keep all of its activations.
                saved.inputs = [value.copied() for value in saved.inputs]
                saved.state = copied(saved.state)
                saved.call = self._call(s, m, saved, weights)
                self._outputs.terms.set_added(s, m, saved.call.added)
            saved.call.renew_weights(weights)
            of_inputs = saved.call.input_gradients(*self._upstream(s, m, saved.call))
            if self._has_weight_actions:
                self._half_differentiated[s, m] = saved.call
                self._lanes.finish(s, [*of_inputs, *saved.call.intermediate()])
            else:
                self._lanes.finish(s, [*of_inputs, *self._add_gradients(s, m, saved.call)])
        self._add_cotangents(m, self._cotangents_of_inputs(s, saved, of_inputs))

    def _weight(self, s: int, m: int) -> None:
        """Compute the gradients of one stage's weights, the second part of a split backward pass."""
        call, weights = self._half_differentiated.pop((s, m)), self._lanes.weights(s)
        with tf.device(self._devices[s].name), self._lanes.after_previous(s):
            call.renew_weights(weights)
            self._lanes.finish(s, self._add_gradients(s, m, call))

    def _add_gradients(self, s: int, m: int, call: StageCall) -> list[Any]:
        """Add the gradients of a stage's weights in one microbatch to those of earlier ones, and return the sums.

        The lane's next action waits for the sums and not only for what is added. If nothing but the next sum read them,
        TensorFlow's arithmetic optimizer would make one sum of all microbatches at the end, and so keep the gradients
        of each of them until then.
        """
        of_weights = self._without_overwritten(s, call.weight_gradients())
        # Slices keep the number of rows that they came from: a kind may have to divide them again by microbatch.
        parts = [_part(gradient, self._result.counts[m]) for gradient in of_weights]
        sums = [accumulated(a, b) for a, b in zip(self._result.gradients[s], parts, strict=True)]
        self._result.gradients[s] = sums
        return [
            part if isinstance(part, tf.IndexedSlices) else each for part, each in zip(of_weights, sums, strict=True)
        ]

    def _upstream(self, s: int, m: int, call: StageCall) -> tuple[list[Any], list[Any]]:
        """Return the cotangents of a call's outputs and `add_loss` terms, as `StageCall.input_gradients` takes them.

        A later stage or the loss has sent the cotangents; that of an `add_loss` term is the term's factor in the loss.
        """
        values, numbers = call.forward.outputs, self._pipeline.stages[s].writes
        cotangents = [self._cotangents[m].pop(number, None) for number in numbers]
        # `by_leaf` has the order of `differentiable_leaves`: all tensors of all values, then all logits. A value that
        # nothing differentiable reads has no cotangent, and None in the place of each leaf.
        by_leaf: list[Any] = []
        for attribute in ("tensor", "logits"):
            for value, cotangent in zip(values, cotangents, strict=True):
                missing = [None] * len(keras.tree.flatten(getattr(value, attribute)))
                by_leaf += getattr(cotangent, attribute, None) or missing
        self._result.differentiated[s] = [cotangent is not None for cotangent in by_leaf]
        factors = zip(call.added, self._outputs.added_factors(s), strict=True)
        # Copied, so that the cotangents too arrive on this device and after the lane's previous action.
        return list(map(copied, by_leaf)), [tf.cast(factor, term.numerator.dtype) for term, factor in factors]

    def _received(self, s: int, saved: _SavedForward) -> list[Any]:
        """Return the floating tensors that a stage received from earlier stages; the data need no gradient."""
        reads = zip(self._pipeline.stages[s].reads, saved.inputs, strict=True)
        return differentiable([value.tensor for number, value in reads if number not in self._pipeline.inputs])

    def _cotangents_of_inputs(self, s: int, saved: _SavedForward, gradients: list[Any]) -> dict[int, Cotangent]:
        """Assign the gradients of `_received` to the numbers of the values that the stage reads."""
        flat, result = iter(gradients), {}
        for number, value in zip(self._pipeline.stages[s].reads, saved.inputs, strict=True):
            if number not in self._pipeline.inputs:
                leaves = keras.tree.flatten(value.tensor)
                result[number] = Cotangent([next(flat) if is_differentiable(leaf) else None for leaf in leaves])
        return result

    def _add_cotangents(self, m: int, cotangents: dict[int, Cotangent]) -> None:
        """Add cotangents to those that other readers of the same values have sent: the chain rule's sum."""
        sums = self._cotangents[m]
        for number, cotangent in cotangents.items():
            sums[number] = _sum(sums[number], cotangent) if number in sums else cotangent

    def _without_overwritten(self, s: int, gradients: list[Any]) -> list[Any]:
        """Take out the "gradients" that are new values of float8 variables; keep the largest over the microbatches."""
        largest = self._result.overwritten[s]
        for w in self._pipeline.stages[s].overwritten:
            value = gradients[w]
            if value is not None:
                largest[w] = tf.maximum(largest[w], value) if w in largest else value
        return [None if w in largest else gradient for w, gradient in enumerate(gradients)]


def _part(gradient: Any, rows: int) -> Any:
    """Return a weight's gradient in one microbatch; slices come with the microbatch's number of rows."""
    return MicrobatchSlices((gradient,), (rows,)) if isinstance(gradient, tf.IndexedSlices) else gradient


def _sum(first: Cotangent, second: Cotangent) -> Cotangent:
    leaves = [_plus(a, b) for a, b in zip(first.tensor, second.tensor, strict=True)]
    return Cotangent(leaves, first.logits or second.logits)


def _plus(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return add([first, second])
