"""Carries out the actions of one replica for one batch; it knows no schedule by name.

```text
          F(s,m): read boundary values ─► stage ─► write boundary values, keep the tape
          B(s,m): cotangents of what was written ─► tape ─► cotangents of what was read + weight gradients
```

Each action runs on its stage's device and after the lane's previous action (control dependencies): traced without
them, every schedule would become the same unordered graph, and TensorFlow would run it in any order it likes.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.communicator import add
from kparallel.engine.colocate import colocate_with_forward
from kparallel.engine.loss_stage import LossStage
from kparallel.engine.shared_writes import refuse_shared_writes
from kparallel.engine.sparse_gradients import MicrobatchSlices, accumulated
from kparallel.loss.term import Term, added_term
from kparallel.schedule.action import Action
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.stage import Forward, StateRules
from kparallel.stage.state import End, RowRange

__all__: list[str] = []

StageFunction = Callable[[list[Any], list[Any], list[Any], list[Any]], Forward]


@dataclass
class _SavedForward:
    """What the backward pass of one (stage, microbatch) needs."""

    inputs: list[Any]
    masks: list[Any]
    state: list[Any]
    tape: tf.GradientTape | None = None
    outputs: list[Any] | None = None
    logits: list[Any] | None = None
    added: list[Term] | None = None


class Executor:
    """One replica's work on one batch.

    Args:
        pipeline: The stages.
        devices: The row: one device name for each stage.
        calls: One callable for each stage: (weights, state, inputs, masks) to `Forward`.
        lanes: The lane of each stage; actions of one lane run one after another.
        row_ranges: Which rows each microbatch has.
        loss_stage: Losses of the outputs, or None to predict.
        keeps: Tells for (stage, microbatch) whether the forward pass keeps its tape, else it is run again.
        replica_index: Shifts the seeds.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        devices: Sequence[str],
        calls: Sequence[StageFunction],
        lanes: Sequence[int],
        row_ranges: Sequence[RowRange],
        loss_stage: LossStage | None,
        keeps: Callable[[int, int], bool],
        replica_index: int,
    ) -> None:
        self._pipeline = pipeline
        self._devices = devices
        self._calls = calls
        self._lanes = lanes
        self._row_ranges = tuple(row_ranges)
        self.counts = counts = tuple(place.count for place in row_ranges)
        self._loss_stage = loss_stage
        self._keeps = keeps
        stages = pipeline.stages
        self.weights: list[list[tf.Tensor]] = []
        self.start: list[list[tf.Tensor]] = []
        for stage, device in zip(stages, devices, strict=True):
            with tf.device(device):
                self.weights.append(stage.read(in_place=pipeline.placed))
                self.start.append(stage.state.read(replica_index))
        self._state = [list(state) for state in self.start]
        self.ends: list[list[End]] = [[] for _ in stages]
        self.assigned: list[End] = [[None] * len(stage.weights) for stage in stages]
        self.state_rules: dict[int, StateRules] = {}
        self.gradients: list[list[Any]] = [[None] * len(stage.weights) for stage in stages]
        self.used: list[list[bool]] = [[] for _ in stages]
        self.overwritten: list[dict[int, tf.Tensor]] = [{} for _ in stages]
        self.added: list[list[list[Term]]] = [[[] for _ in counts] for _ in stages]
        self._values: list[dict[int, Any]] = [{} for _ in counts]
        self._masks: list[dict[int, Any]] = [{} for _ in counts]
        self._logits: list[dict[int, Any]] = [{} for _ in counts]
        self._cotangents: list[dict[int, list[Any]]] = [{} for _ in counts]
        self._logit_cotangents: list[dict[int, list[Any]]] = [{} for _ in counts]
        self._saved: dict[tuple[int, int], _SavedForward] = {}
        self._last: dict[int, list[tf.Tensor]] = {}

    def feed(self, microbatch: int, x: Any) -> None:
        """Hand in one microbatch's inputs."""
        self._values[microbatch].update(self._pipeline.feed(x))

    def run(self, order: Sequence[Action]) -> None:
        """Carry out actions in an order that respects their dependencies."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with refuse_shared_writes(replicas * len(self.counts)):
            for action in order:
                if action.microbatch >= len(self.counts):
                    continue  # An empty microbatch.
                with tf.name_scope(str(action)):  # Profiles tell actions apart by it.
                    if action.kind == "F":
                        self._forward(action.stage, action.microbatch)
                    else:
                        self._backward(action.stage, action.microbatch)

    def outputs(self, microbatch: int) -> Any:
        """Return the model's outputs for one microbatch, on the last stage's device, with their masks."""
        with tf.device(self._devices[-1]):
            values, masks, logits = (each[microbatch] for each in (self._values, self._masks, self._logits))
            return self._pipeline.fetch(values, masks, logits)

    def weight(self, s: int, index: int) -> tf.Tensor:
        """Return a weight as it is after the forward passes, in which layers may have assigned it."""
        assigned = self.assigned[s][index]
        return self.weights[s][index] if assigned is None else assigned

    def _forward(self, s: int, m: int) -> None:
        stage = self._pipeline.stages[s]
        with tf.device(self._devices[s]), self._after(s):
            inputs = [_copied(self._values[m][number]) for number in stage.reads]
            masks = [_copied(self._masks[m].get(number)) for number in stage.reads]
            saved = _SavedForward(inputs, masks, stage.state.of_rows(self._state[s], self._row_ranges[m]))
            taped = self._loss_stage is not None and self._loss_stage.training
            forward = self._compute(s, m, saved, taped and self._keeps(s, m))
        if taped:
            self._saved[s, m] = saved
        if m == 0:
            self.assigned[s] = forward.assigned  # As any other microbatch assigns, and other replicas do.
        self.state_rules[s] = forward.state_rules
        self.ends[s].append(forward.state)
        self._state[s] = stage.state.chain(self._state[s], forward.state, forward.state_rules.rules)
        self._values[m].update(zip(stage.writes, forward.outputs, strict=True))
        self._masks[m].update(zip(stage.writes, forward.masks, strict=True))
        self._logits[m].update(zip(stage.writes, forward.logits, strict=True))
        self._done(s, forward.outputs)
        if s == len(self._devices) - 1 and self._loss_stage is not None:
            self._loss_stage.take(m, self.outputs(m))

    def _compute(self, s: int, m: int, saved: _SavedForward, taped: bool) -> Forward:
        if not taped:
            forward = self._calls[s](self.weights[s], saved.state, saved.inputs, saved.masks)
            self.added[s][m] = [added_term(value, self.counts[m]) for value in forward.added]
            return forward
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([self.weights[s], self._received(s, saved)])
            forward = self._calls[s](self.weights[s], saved.state, saved.inputs, saved.masks)
            self.added[s][m] = [added_term(value, self.counts[m]) for value in forward.added]
        saved.tape, saved.outputs, saved.logits, saved.added = tape, forward.outputs, forward.logits, self.added[s][m]
        return forward

    def _backward(self, s: int, m: int) -> None:
        assert self._loss_stage is not None
        stage = self._pipeline.stages[s]
        if s == len(self._devices) - 1:
            outputs, self._logit_cotangents[m] = self._loss_stage.cotangents(m, self.added)
            for number, gradients in outputs.items():
                self._add_cotangents(m, number, gradients)
        saved = self._saved.pop((s, m))
        with tf.device(self._devices[s]), self._after(s):
            if saved.tape is None:
                # New tensors, which come after the lane's previous action: from the same ones TensorFlow would find
                # that everything is computed already, and keep it.
                saved.inputs, saved.masks, saved.state = map(_copied, (saved.inputs, saved.masks, saved.state))
                self._compute(s, m, saved, taped=True)
            targets, upstream = self._upstream(s, m, saved)
            sources = [self._received(s, saved), self.weights[s]]
            assert saved.tape is not None
            if targets:
                with colocate_with_forward() if self._pipeline.placed else nullcontext():
                    inputs, weights = saved.tape.gradient(targets, sources, output_gradients=upstream)
            else:
                inputs, weights = [None] * len(sources[0]), [None] * len(sources[1])
            weights = self._without_overwritten(s, weights)
            parts = [_part(gradient, self.counts[m]) for gradient in weights]
            self.gradients[s] = [accumulated(a, b) for a, b in zip(self.gradients[s], parts, strict=True)]
            self._done(s, [g for g in [*inputs, *weights] if g is not None])
        flat = iter(inputs)
        for number, value in zip(stage.reads, saved.inputs, strict=True):
            if number not in self._pipeline.inputs:
                leaves = [next(flat) if _is_differentiable(leaf) else None for leaf in keras.tree.flatten(value)]
                self._add_cotangents(m, number, leaves)

    def _without_overwritten(self, s: int, gradients: list[Any]) -> list[Any]:
        """Take out the gradients of the variables that are overwritten with them; the largest microbatch's is saved."""
        known = self.overwritten[s]
        for index in self._pipeline.stages[s].overwritten:
            value = gradients[index]
            if value is not None:
                known[index] = tf.maximum(known[index], value) if index in known else value
        return [None if index in known else gradient for index, gradient in enumerate(gradients)]

    def _received(self, s: int, saved: _SavedForward) -> list[Any]:
        """Return what a stage differentiates with respect to beside its weights: all it reads but the data."""
        reads = zip(self._pipeline.stages[s].reads, saved.inputs, strict=True)
        return differentiable([value for number, value in reads if number not in self._pipeline.inputs])

    def _upstream(self, s: int, m: int, saved: _SavedForward) -> tuple[list[Any], list[Any]]:
        """Pair what a stage gave with the cotangents that came for it."""
        assert saved.outputs is not None and saved.added is not None and self._loss_stage is not None
        targets, upstream, used = [], [], list[bool]()
        for values, cotangents in ((saved.outputs, self._cotangents[m]), (saved.logits, self._logit_cotangents[m])):
            for number, value in zip(self._pipeline.stages[s].writes, values or [], strict=True):
                leaves = keras.tree.flatten(value)
                for leaf, cotangent in zip(leaves, cotangents.pop(number, [None] * len(leaves)), strict=True):
                    used.append(cotangent is not None)
                    if cotangent is not None:
                        targets.append(leaf)
                        upstream.append(_copied(cotangent))
        self.used[s] = used
        for term, factor in zip(saved.added, self._loss_stage.added_factors(s), strict=True):
            targets.append(term.numerator)
            upstream.append(tf.cast(factor, term.numerator.dtype))
        return targets, upstream

    def _add_cotangents(self, m: int, number: int, leaves: list[Any]) -> None:
        old = self._cotangents[m].get(number)
        self._cotangents[m][number] = leaves if old is None else [_plus(a, b) for a, b in zip(old, leaves, strict=True)]

    def _after(self, s: int) -> Any:
        return tf.control_dependencies(self._last.get(self._lanes[s], []))

    def _done(self, s: int, results: Any) -> None:
        """Let the lane's next action wait for these results.

        A control edge from a call of a stage's function would not do: TensorFlow puts the function's operations in
        place of the call, and control edges then wait for its side effects only, of which a stage has none. Data do.
        """
        tensors = [leaf for leaf in tf.nest.flatten(results, expand_composites=True) if isinstance(leaf, tf.Tensor)]
        if tensors and not self._pipeline.placed:
            with tf.device(self._devices[s]):
                self._last[self._lanes[s]] = tf.identity_n(tensors)[:1]


def _is_differentiable(leaf: Any) -> bool:
    return leaf is not None and hasattr(leaf, "dtype") and tf.as_dtype(leaf.dtype).is_floating


def _part(gradient: Any, rows: int) -> Any:
    """Return a weight's gradient in one microbatch, slices with the number of their rows."""
    return MicrobatchSlices((gradient,), (rows,)) if isinstance(gradient, tf.IndexedSlices) else gradient


def differentiable(structure: Any) -> list[Any]:
    """Return the floating leaves of a structure."""
    return [leaf for leaf in keras.tree.flatten(structure) if _is_differentiable(leaf)]


def _copied(structure: Any) -> Any:
    """Return the tensors on the present device, as tensors of this action alone."""
    return keras.tree.map_structure(lambda v: tf.identity(v) if isinstance(v, tf.Tensor) else v, structure)


def _plus(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return add([first, second])
