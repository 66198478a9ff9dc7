"""A replica's forward and backward pass as a function: traced once, called by each replica.

All replicas of one machine run the same passes on shares of one size. Tracing them, layer by layer, takes most of the
time to the first step of a deep model.

```text
                 reads                        one trace                        sums over the replicas
replica 0        weights 0, state 0 ──► passes(weights, state, share) ──► gradients, changes of state, report
replica 1        weights 1, state 1 ──► passes(weights, state, share) ──► …
```

The function is pure: what differs between replicas, weights and seeds and rows, are its arguments. TensorFlow inlines
it, so the step that runs is the one that each replica's own trace would give. Where a replica's passes are not the same
as another's, or depend on another's while they run, each traces its own.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.compat.steps import default_generator_of_success
from kparallel.data.share import Share
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.report import Report
from kparallel.engine.shared_function import NotShared, SharedFunction, operations_of
from kparallel.engine.sparse_gradients import SlicedGradient
from kparallel.stage.state import Rule

__all__: list[str] = []

# Operations that have an effect or a state on their own, but no more than the functions that they call, or than the
# variable that they read.
_HARMLESS = ("ReadVariableOp", "StatefulPartitionedCall", "While", "If")


@dataclass(frozen=True)
class LocalResult:
    """What a replica's passes leave for the all-reduce and for what follows it.

    Args:
        result: The result of the passes.
        gradients: The gradients by the id of the variable, as `gradients_of` returns them.
        report: The replica's report.
        outputs: Returns the outputs of its rows; None where neither metrics nor losses need them any more.
        loss_state: What an overridden `compute_loss` changes, or None.
    """

    result: ReplicaResult
    gradients: dict[int, list[Any]]
    report: Report
    outputs: Callable[[], Any] | None = None
    loss_state: Any = None


Passes = Callable[[Replica, Share], LocalResult]


@dataclass(frozen=True)
class _Trace:
    """A traced function, and what the passes left in its graph."""

    function: SharedFunction
    local: LocalResult


class SharedPasses:
    """Runs the passes of the replicas of one process by a function that they share while a step is traced.

    Args:
        passes: Runs the passes of a replica by operations of the present graph. What they return has no `outputs` and
            no `loss_state`, or they are not shared.
    """

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._is_shared = True
        self._graph: Any = None  # The step's graph, weakly: what is traced is shared by the replicas of one trace.
        self._traces: dict[Any, _Trace] = {}

    def __call__(self, replica: Replica, share: Share) -> LocalResult:
        """Run the passes. Call it in the replica's context.

        Args:
            replica: The replica.
            share: Its rows.
        """
        data = (share.x, share.y, share.sample_weight)
        leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
        plain = all(isinstance(leaf, tf.Tensor) and leaf.shape.rank is not None for leaf in leaves)
        if not self._is_shared or not plain or tf.executing_eagerly():
            return self._passes(replica, share)
        graph = tf.compat.v1.get_default_graph()
        if self._graph is None or self._graph() is not graph:
            self._graph, self._traces = weakref.ref(graph), {}
        specs = tuple((leaf.dtype, tuple(leaf.shape)) for leaf in leaves)
        states = [rule for stage in replica.pipeline.stages for rule in stage.state.known]
        # Only of a state that belongs to the rows does a replica have to know which rows are its own.
        share = share if Rule.ROWS in states else replace(share, first=None)
        key = (share.count, share.whole, share.first, specs)
        before = ReplicaResult.before(replica, (share.count,))
        if key not in self._traces:
            try:
                with default_generator_of_success():
                    self._traces[key] = self._traced(replica, share, before)
            except Exception:  # What is wrong with the model comes again from the replica's own trace, and says so.
                self._is_shared, self._traces = False, {}
                return self._passes(replica, share)
        with replica.on_last_device():
            return _called(self._traces[key], before, leaves)

    def _traced(self, replica: Replica, share: Share, before: ReplicaResult) -> _Trace:
        found: list[LocalResult] = []
        data = (share.x, share.y, share.sample_weight)

        def body(weights: Any, start: Any, leaves: Any) -> list[tf.Tensor]:
            given = iter(leaves)
            x, y, weight = keras.tree.map_structure(lambda leaf: None if leaf is None else next(given), data)
            # Without devices, so that the function runs where it is called.
            anywhere = replace(replica, devices=("",) * len(replica.devices), values=(weights, start))
            local = self._passes(anywhere, replace(share, x=x, y=y, sample_weight=weight))
            if local.outputs is not None or local.loss_state is not None:
                raise NotShared("gives more than tensors")
            found.append(local)
            return _tensors(local)

        flat = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
        arguments = (before.weights.all(), before.start, flat)
        specs = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), arguments)
        with tf.device(None):  # Past the device functions of the step's own graph.
            function = traced(body).get_concrete_function(*specs)
        for operation in operations_of(function.graph):
            # Replicas that call one function would draw the same numbers, and TensorFlow would run calls with effects
            # one after another.
            if operation.op_def.is_stateful and operation.type not in _HARMLESS:
                raise NotShared(f"{operation.name} is a {operation.type}")
        return _Trace(SharedFunction(function), found[0])


def _called(trace: _Trace, before: ReplicaResult, leaves: list[tf.Tensor]) -> LocalResult:
    """Call the function of a trace, and return what the passes of the present replica leave."""
    values = iter(trace.function(before.weights.all(), before.start, leaves))
    local = _changed(trace.local, lambda _: next(values))
    return replace(local, result=replace(local.result, weights=before.weights, start=before.start))


def _tensors(local: LocalResult) -> list[tf.Tensor]:
    """Return the tensors that are used after the passes, in the order of `_changed`."""
    found: list[tf.Tensor] = []

    def note(tensor: tf.Tensor) -> tf.Tensor:
        found.append(tensor)
        return tensor

    _changed(local, note)
    return found


def _changed(local: LocalResult, change: Callable[[tf.Tensor], tf.Tensor]) -> LocalResult:
    """Return a result with other tensors, in the places of those that are used after the passes."""
    result, report = local.result, local.report
    ends, assigned, overwritten, gradients = _mapped(
        (result.ends, result.assigned, result.overwritten, local.gradients), change
    )
    fields = ("rows", "replicas", "terms", "metrics", "loss_state")
    return LocalResult(
        replace(result, ends=ends, assigned=assigned, overwritten=overwritten),
        gradients,
        Report(*(_mapped(getattr(report, name), change) for name in fields)),
    )


def _mapped(value: Any, change: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    """Return a structure with other tensors, visited in an order that is always the same."""
    if isinstance(value, tf.Tensor):
        return change(value)
    if isinstance(value, tf.IndexedSlices):
        whole = value.dense_shape
        known = None if whole is None else tf.get_static_value(whole)
        # A shape that the graph knows stays known: on it depends how slices become a dense tensor.
        shape = tf.constant(known) if known is not None else whole if whole is None else change(whole)
        return tf.IndexedSlices(change(value.values), change(value.indices), shape)
    if isinstance(value, SlicedGradient):
        return SlicedGradient(*(_mapped(kind, change) for kind in (value.shared, value.distinct, value.rows)))
    if isinstance(value, dict):
        return {name: _mapped(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, change) for part in value)
    return value
