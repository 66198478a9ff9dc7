"""One replica's run of a step of the user's own: what it does with gradients, updates, metrics and results.

```text
replica 0   tape.gradient(loss, weights) ── times 3/5 ──┐
replica 1   tape.gradient(loss, weights) ── times 2/5 ──┴─► the whole batch's gradient on both ─► clipping, norms,
                                                            any number of updates, as on one device
```
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.optimizers import trained_by
from kparallel.compat.steps import outside_step
from kparallel.compat.variables import placed_value
from kparallel.engine.placement import Placement
from kparallel.errors import ModelError
from kparallel.ownstep.combine import own_average, own_sum, whole_results
from kparallel.ownstep.decisions import Decisions
from kparallel.ownstep.metric_updates import adds_up
from kparallel.ownstep.output_gradients import scaled_outputs
from kparallel.ownstep.packed_values import added_in_packs
from kparallel.ownstep.portion import Portion, wide
from kparallel.ownstep.sums import StepSums
from kparallel.ownstep.traced import Traced
from kparallel.ownstep.user_code import line_of
from kparallel.ownstep.written import Change, Written
from kparallel.stage.dependence import Dependence

__all__: list[str] = []

Update = Callable[[Any, list[Any], list[Any]], None]


class ReplicaRun:
    """One replica's run of one step.

    Args:
        placement: Where replicas run.
        share: What this one has of the batch.
        variables: What the step may write, in one order on all replicas.
        moments: Ids of BatchNorm's moving statistics.
        traced: Follows the graph; None in a step that runs eagerly.
        decisions: Takes note of what is found in the graph, or has it for a step that runs eagerly.
        update: Applies an optimizer to gradients and variables.
        sharded: Whether it waits for the other replicas, since one of them updates each weight. Default False.
    """

    def __init__(
        self,
        placement: Placement,
        share: Portion,
        variables: Sequence[keras.Variable],
        moments: set[int],
        traced: Traced | None,
        decisions: Decisions,
        update: Update,
        sharded: bool = False,
    ) -> None:
        self._sums = StepSums(placement, share, self._mark, self._same_indices)
        self.refusals = self._sums.refusals
        self._variables = {id(variable): variable for variable in variables}
        self._moments = moments
        self._traced = traced
        self._decisions = decisions
        self._update = update
        self._sharded = sharded
        self._applying = False
        # No graph tells what is added to variables in a step that runs eagerly: there it is the difference from these.
        self._before: dict[int, tf.Tensor] = {}
        if traced is None:
            self._note(variable for variable in variables if not variable.trainable)

    @property
    def written(self) -> Written | None:
        """What is found in the step's graph; None in a step that runs eagerly."""
        return None if self._traced is None else self._traced.written

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        """Return all replicas' rows of a tensor."""
        return self._sums.rows(value)

    def total(self, value: tf.Tensor) -> tf.Tensor:
        """Return the sum of a tensor over the replicas."""
        return self._sums.total(value)

    def gradient(self, compute: Callable[[Any], Any], target: Any, sources: Any, output_gradients: Any) -> Any:
        """Return gradients that leave a tape, those of the model's weights summed over the replicas.

        Args:
            compute: Computes them of output gradients, as TensorFlow does.
            target, sources: What they are of.
            output_gradients: What the user gives; None for ones.
        """
        if self._applying or self._sums.in_jacobian or self._sums.in_gradient or self._sums.replicas == 1:
            return compute(output_gradients)
        places = tf.nest.flatten(sources)
        # Gradients of inputs stay as they are. So where some are asked for, those of weights are scaled one by one.
        at_outputs = output_gradients is None and all(map(is_weight, places))
        outputs = scaled_outputs(target, places, self._factor(target)) if at_outputs else None
        with self._sums.gradient(outputs is not None):
            gradients = compute(output_gradients if outputs is None else outputs)
        flat = tf.nest.flatten(gradients)
        own = [i for i, (g, s) in enumerate(zip(flat, places, strict=True)) if g is not None and is_weight(s)]
        totals = self._sums.gradients([flat[i] for i in own], [places[i] for i in own], outputs is not None)
        for index, total in zip(own, totals, strict=True):
            flat[index] = total
        return tf.nest.pack_sequence_as(gradients, flat)

    def _factor(self, target: Any) -> Any:
        """Return by how much of a loss this replica's gradients of it count."""
        share = self._sums.share
        if not share.sums:
            return share.factor

        def is_equal() -> bool:
            tensors = [leaf for leaf in tf.nest.flatten(target) if isinstance(leaf, tf.Tensor)]
            return all(self._dependence(tensor) is Dependence.NONE for tensor in tensors)

        # A decay, a penalty on the whole batch's gradient or a loss of gathered rows is no summand: each has all of it.
        equal = self._decisions.of("a loss", is_equal, not self._sums.inside())
        return share.filled if equal else share.factor

    def jacobian(self, compute: Callable[[], Any], target: Any, sources: Any) -> Any:
        """Return a jacobian that leaves a tape: rows of it for rows of the target, or those of weights summed.

        The jacobian of values for each row has these rows, which stay the replica's. That of a mean over the rows is
        a mean over them, as its gradient is.

        Args:
            compute: Computes it as TensorFlow does.
            target, sources: What it is of.
        """
        if self._sums.replicas == 1:
            return compute()
        dependence = self._decisions.of("a jacobian", lambda: self._of_rows(target), not self._sums.inside())
        equal = dependence is Dependence.NONE
        with self._sums.jacobian(equal):
            found = compute()
        flat, places = tf.nest.flatten(found), tf.nest.flatten(sources)
        own = [i for i, (j, s) in enumerate(zip(flat, places, strict=True)) if j is not None and is_weight(s)]
        if dependence is Dependence.ROWS:
            for index in own:
                self._mark(flat[index], Dependence.ROWS)
            return found
        for index in own:
            flat[index] = tf.ensure_shape(flat[index], target.shape.concatenate(places[index].shape))
        for index, total in zip(own, self._sums.jacobians([flat[i] for i in own], equal), strict=True):
            flat[index] = total
        return tf.nest.pack_sequence_as(found, flat)

    def apply(self, optimizer: Any, original: Callable[..., Any], grads: Any, trainable_variables: Any = None) -> None:
        """Apply gradients once they are the whole batch's; those that are so already are not summed again."""
        gradients = list(grads)
        if self._applying or not gradients:
            original(gradients, trainable_variables)
            return
        variables = list(trained_by(optimizer) if trainable_variables is None else trainable_variables)
        if trainable_variables is None and len(variables) != len(gradients):
            original(gradients, None)  # Keras says what is wrong.
        number = min(len(gradients), len(variables))  # As Keras pairs them.
        gradients, variables = gradients[:number], variables[:number]
        self._check_known(variables)
        inside = self._sums.inside()
        self._settle([*optimizer.variables, *variables])
        if self._sharded:
            self._sums.check_place()  # One replica updates each weight, and the others wait for it.
        local = self._decisions.of("an update", lambda: [self._differs(each) for each in gradients], not inside)
        own = [index for index, differs in enumerate(local) if differs]
        totals = self._sums.gradients([gradients[i] for i in own], [variables[i] for i in own])
        for index, total in zip(own, totals, strict=True):
            gradients[index] = total
        if self._traced is not None:
            self._traced.written.follow()
        self._applying = True
        try:
            with outside_step():
                self._update(optimizer, gradients, variables)
        finally:
            self._applying = False
        if self._traced is not None:
            self._traced.written.skip()
        updated = [*optimizer.variables, *variables]
        self._note(each for each in updated if id(each) in self._before)

    def _settle(self, variables: list[Any]) -> None:
        """Bring what an update starts from to one value on all replicas, such as a learning rate that was assigned."""

        def differ() -> bool:
            rules = self._rules()
            return any(id(variable) in rules for variable in variables)

        if self._sums.replicas > 1 and self._decisions.of("a start", differ, not self._sums.inside()):
            self.agree()

    def _check_known(self, variables: list[Any]) -> None:
        foreign = next((each for each in variables if not is_weight(each)), None)
        if foreign is not None and self._sums.replicas > 1:
            raise ModelError(
                "Expected an update of weights that the model holds, received one of "
                f"{getattr(foreign, 'path', foreign.name)!r}{line_of()}, which has no copy on each of the "
                f"{self._sums.replicas} replicas. Make it with add_weight in the model or in one of its layers."
            )

    def update_metric(self, metric: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Update a metric with this replica's rows."""
        if self._traced is None or not self._sums.inside():
            return original(*args, **kwargs)
        self._traced.written.follow()
        found = original(*args, **kwargs)
        adds = adds_up(metric, args, kwargs, self._traced)
        self._traced.written.follow(additive=adds, counts=adds and self._traced.size is not None)
        return found

    def read_metric(self, metric: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Read what a metric has come to, with all replicas' rows."""
        if self._sums.inside():
            self.agree()
        return original(*args, **kwargs)

    def reset_metric(self, metric: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Reset a metric: what the replicas have added so far counts no more."""
        found = original(*args, **kwargs)
        if self._traced is not None:
            self._traced.written.follow()
        self._note(variable for variable in metric.variables if id(variable) in self._before)
        return found

    def agree(self) -> None:
        """Bring what the step has written to one value on all replicas."""
        rules = self._decisions.of("an agreement", self._rules)
        changes = {} if self._traced is None else self._traced.written.settled()
        keys = [] if self._sums.replicas == 1 else [key for key in self._variables if key in rules]
        own = [self._own_part(key, rules[key], changes.get(key)) for key in keys]
        for key, total in zip(keys, added_in_packs(self._sums.add, own), strict=True):
            self._variables[key].assign(tf.cast(total, self._variables[key].dtype))
        if self._traced is not None:
            self._traced.written.skip()
        self._note(self._variables[key] for key in keys if key in self._before)

    def results(self, leaves: list[Any]) -> list[tf.Tensor]:
        """Return what a step gives, of the whole batch."""
        self.agree()
        leaves = [tf.convert_to_tensor(leaf) for leaf in leaves]
        if self._sums.replicas == 1:
            return leaves
        dependences = self._decisions.of("results", lambda: [self._result_dependence(leaf) for leaf in leaves])
        return whole_results(leaves, dependences, self._sums)

    def _mark(self, tensor: tf.Tensor, dependence: Dependence = Dependence.NONE) -> None:
        """Say of a tensor how it depends on the rows; default it is equal on all replicas."""
        if self._traced is not None and self._sums.inside():
            self._traced.rows.set(tensor, dependence)

    def _same_indices(self, slices: tf.IndexedSlices) -> bool:
        """Tell whether slices have the same indices on all replicas, as those of positions do."""
        return self._decisions.of("slices", lambda: self._dependence(slices.indices) is Dependence.NONE)

    def _dependence(self, tensor: tf.Tensor) -> Dependence:
        assert self._traced is not None
        return self._traced.dependence(tensor)

    def _differs(self, gradient: Any) -> bool:
        if gradient is None or self._sums.replicas == 1:
            return False
        parts = [gradient.values, gradient.indices] if isinstance(gradient, tf.IndexedSlices) else [gradient]
        return any(self._dependence(tf.convert_to_tensor(part)) is not Dependence.NONE for part in parts)

    def _rules(self) -> dict[int, bool]:
        """Return which variables the replicas have to agree on, and whether they add up."""
        assert self._traced is not None
        self._traced.written.follow()
        changes = self._traced.written.changes
        return {key: bool(change.sums) for key, change in changes.items() if change.differs}

    def _own_part(self, key: int, adds: bool, change: Change | None) -> tf.Tensor:
        variable = self._variables[key]
        if not adds:
            return own_average(variable, self._sums, key in self._moments)
        if change is None:
            change = Change(sums=[wide(tf.convert_to_tensor(variable.value)) - wide(self._before[key])])
        return own_sum(variable, self._sums, change)

    def _note(self, variables: Iterable[keras.Variable]) -> None:
        """Take note of what variables hold, in a step that runs eagerly."""
        if self._traced is None:
            self._before |= {id(variable): tf.identity(variable.value) for variable in list(variables)}

    def _of_rows(self, tensor: tf.Tensor) -> Dependence:
        """Return how a tensor depends on the rows; what has an unknown number of them is taken as values for each."""
        dependence = self._dependence(tensor)
        unknown = bool(tensor.shape.rank) and tensor.shape[0] is None
        return Dependence.ROWS if dependence is Dependence.OTHER and unknown else dependence

    def _result_dependence(self, leaf: tf.Tensor) -> Dependence:
        """Return how a result depends on the rows, as far as it matters for what the replicas make of it."""
        dependence = self._of_rows(leaf)
        if leaf.shape.rank:
            return dependence
        if not leaf.dtype.is_floating and not leaf.dtype.is_integer:
            return Dependence.NONE
        return Dependence.OTHER if dependence is Dependence.ROWS else dependence


def is_weight(source: Any) -> bool:
    """Tell whether a source of a gradient is a variable with a copy on each replica."""
    if isinstance(source, keras.Variable):
        return placed_value(source) is not None
    return isinstance(source, tf.distribute.DistributedValues) and isinstance(source, tf.Variable)
