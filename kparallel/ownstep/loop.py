"""A training loop of the user's own, as TensorFlow's guide writes it: `strategy.run(step, args)` over divided batches.

```text
              a step of fit (train_step)            a loop of one's own (strategy.run)
losses        means over the replica's rows         divided by the rows of the global batch, by the user
              Keras's losses as on one device       Keras's losses divide by the number of replicas, as in stock Keras
gradients     averaged by rows, at the tape         summed, at the optimizer
```
"""

import gc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.copies import as_ordinary
from kparallel.compat.functions import outermost, traced
from kparallel.compat.steps import converted, default_generator, noting_updates, running
from kparallel.compat.variables import place_variable, placed_value
from kparallel.engine.placement import Placement
from kparallel.errors import ModelError
from kparallel.model_variables import variables_of
from kparallel.ownstep.brought import BroughtWeights
from kparallel.ownstep.decisions import Decisions
from kparallel.ownstep.portion import Portion
from kparallel.ownstep.replica import ReplicaRun
from kparallel.ownstep.same_function import key_of
from kparallel.ownstep.step import OwnStep

__all__: list[str] = []


class LoopStrategy:
    """The strategy of a wrapped model as a loop of the user's own sees it.

    Args:
        model: The wrapped model.
        strategy: What all but `run` is passed on to.
        placement: Where replicas run.
        place: Places what the model has got since.
        draws: Gives what Keras's random functions draw from that are given no seed, with a copy on each replica.
        owners: Gives, by the id of a weight, the replica that updates it; None where each updates its own copies.
        keep_whole: Lets each replica update its own copies from now on, unless the user has said something else.
        release: Drops, whenever a loop runs, what other workers hold; None where workers share nothing out.
        shard: What the replicas share out: `"optimizer"`, `"weights"` or None.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        placement: Placement,
        place: Callable[[], None],
        draws: Callable[[], keras.random.SeedGenerator],
        owners: Callable[[], Mapping[int, int] | None],
        keep_whole: Callable[[], None],
        release: Callable[[], None] | None = None,
        shard: str | None = None,
    ) -> None:
        self._model = model
        self._strategy = strategy
        self._placement = placement
        self._place = place
        self._draws = draws
        self._owners = owners
        self._keep_whole = keep_whole
        self._release = release
        self._shard = shard
        self._optimizers: dict[int, Any] = {}  # What loops have been found to use, by id, beside what the model holds.
        self._metrics: dict[int, keras.metrics.Metric] = {}
        self._variables: dict[int, keras.Variable] = {}
        self._found: dict[Any, dict[int, Decisions]] = {}
        self._kept: list[Any] = []  # The objects whose ids are in the keys of `_found`.
        self._brought: BroughtWeights | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def run(self, fn: Callable[..., Any], args: Any = (), kwargs: Any = None, options: Any = None) -> Any:
        """Run a function on each replica, as `tf.distribute.Strategy.run` does.

        Args:
            fn: Called on each replica. An optimizer that it calls sums gradients over the replicas.
            args, kwargs: Its arguments: of values that were distributed, each replica's own.
            options: As TensorFlow takes them.

        Returns:
            What the function returned on each replica.
        """
        kwargs = kwargs or {}
        if self._release is not None and tf.executing_eagerly():
            raise ModelError(
                f"Expected strategy.run inside a tf.function with shard={self._shard!r} over several workers, received "
                "a call outside of every one. Decorate the function that calls it with tf.function, or say shard=None."
            )
        key, kept = key_of(fn)
        if key not in self._found or not tf.executing_eagerly():
            self._prepare(fn, args, kwargs)
        owners = self._owners()
        brought = self._weights(owners or {})
        optimizers, metrics = list(self._optimizers.values()), list(self._metrics.values())
        used = optimizers, metrics, list(self._variables.values())
        loop = _Loop(self._model, self._placement, self._draws(), owners, brought, *used, self._release)
        if tf.executing_eagerly() and key not in self._found:
            self._found[key] = loop.traced(self._strategy, fn, args, kwargs)
            self._kept += kept
        return loop.run_function(self._strategy, converted(fn), args, kwargs, self._found.get(key, {}))

    def _weights(self, owners: Mapping[int, int]) -> BroughtWeights:
        """Return the weights that owners alone hold; the same as for the last call, as long as they lie there."""
        weights = self._model.weights
        if self._brought is None or not self._brought.are_of(weights, owners):
            self._brought = BroughtWeights(weights, owners, self._placement)
        return self._brought

    def _prepare(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Find out what a function writes, let it make what is missing, and place it on the replicas."""
        # Before and after: the function may make variables, and reads those that are placed.
        with tf.init_scope():  # The loop's own graph would keep what variables are given where they are placed.
            self._place()
        spec = partial(tf.nest.map_structure, lambda leaf: _spec(self._strategy, leaf))
        noted: list[Any] = []

        def once(*some: Any, **named: Any) -> None:
            with noting_updates() as used:
                converted(fn)(*some, **named)
            noted.extend(used)

        with outermost(), as_ordinary(variables_of(self._model), traces_alone=True):
            traced(once).get_concrete_function(*spec(args), **spec(kwargs))
        optimizers = {id(each): each for each in noted if isinstance(each, keras.optimizers.Optimizer)}
        if optimizers:
            self._keep_whole()
        with tf.init_scope():
            self._place()
            self._keep(optimizers, noted)

    def _keep(self, optimizers: dict[int, Any], noted: list[Any]) -> None:
        """Keep what a function uses, and place what of it the model does not hold."""
        self._optimizers |= optimizers
        drawn = default_generator().state  # On the replicas another one takes its place.
        written = [each for each in noted if isinstance(each, keras.Variable) and each is not drawn]
        self._metrics |= {id(metric): metric for metric in _metrics_of(written)}
        owners = [*optimizers.values(), *self._metrics.values()]
        for variable in [*written, *(variable for owner in owners for variable in owner.variables)]:
            # On the last stage's devices, as everything that no stage owns. A loop of one's own has one stage.
            if placed_value(variable) is None:
                place_variable(variable, self._strategy, [row[-1] for row in self._placement.rows])
            self._variables[id(variable)] = variable


def _metrics_of(variables: list[keras.Variable]) -> list[keras.metrics.Metric]:
    """Return the metrics that have some of the variables, which know nothing of their owners."""
    ids = set(map(id, variables))
    metrics = [each for each in gc.get_objects() if issubclass(type(each), keras.metrics.Metric)]
    return [metric for metric in metrics if any(id(variable) in ids for variable in metric.variables)]


class _LoopReplica(ReplicaRun):
    """One replica's run of a function in a loop of the user's own."""

    def gradient(self, compute: Callable[[Any], Any], target: Any, sources: Any, output_gradients: Any) -> Any:
        """Return gradients as they are: they are summed at the optimizer."""
        return compute(output_gradients)

    def jacobian(self, compute: Callable[[], Any], target: Any, sources: Any) -> Any:
        """Return a jacobian as it is, as gradients are."""
        return compute()

    def _differs(self, gradient: Any) -> bool:
        return gradient is not None


class _Loop(OwnStep):
    """A function of the user's own over the replicas.

    Args:
        model: The wrapped model.
        placement: Where replicas run.
        draws, owners, brought: As `OwnStep` takes them.
        optimizers, metrics, variables: What the function may use, beside what the model holds.
        release: As `LoopStrategy` takes it.
    """

    def __init__(
        self,
        model: keras.Model,
        placement: Placement,
        draws: keras.random.SeedGenerator,
        owners: Mapping[int, int] | None,
        brought: BroughtWeights,
        optimizers: list[Any],
        metrics: list[keras.metrics.Metric],
        variables: list[keras.Variable],
        release: Callable[[], None] | None,
    ) -> None:
        super().__init__(model, lambda data: data, placement, "sum", False, draws, owners, brought)
        self._release = release
        self._held.add(optimizers, metrics, variables)

    def traced(self, strategy: tf.distribute.Strategy, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what is found in the graph of a function that is to run eagerly."""
        found: dict[int, Decisions] = {}

        def once(*some: Any, **named: Any) -> None:
            self.run_function(strategy, fn, some, named, found)

        traced(once).get_concrete_function(*args, **kwargs)
        return found

    def _apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        super()._apply(optimizer, gradients, variables)
        if id(optimizer) in self._shared_out and self._brought.shard != "weights":
            self._release_others()

    def _release_others(self) -> None:
        """Let the graph drop what other workers hold."""
        if self._release is not None:
            # No Python of the loop may run when it steps again: what is traced here says so each time.
            with tf.device("CPU:0"):
                tf.py_function(self._release, [], [])

    def run_function(
        self,
        strategy: tf.distribute.Strategy,
        fn: Callable[..., Any],
        args: Any,
        kwargs: Any,
        found: dict[int, Decisions],
    ) -> Any:
        """Run a function on the replicas and return what it returned on each."""

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def one(*some: Any, **named: Any) -> Any:
            communicator = self._placement.communicators[-1]
            index, part = communicator.replica_index, 1.0 / self._placement.replicas
            if tf.executing_eagerly():
                follows, decisions = None, Decisions(found[index])
            else:
                follows, decisions = self._followed([some, named], index, _size([some, named])), Decisions()
                found[index] = decisions
            # Every replica counts alike: how many rows it has is known to the loop alone, which divides by the global
            # batch itself.
            share = Portion(1, part, part, True)
            replica = _LoopReplica(
                self._placement,
                share,
                self._held.variables,
                self._held.moments,
                follows,
                decisions,
                self._update,
                self._owners is not None,
            )
            self._shift_seeds(index, 1)
            with running(replica, loop=True), self.drawing():
                result = fn(*some, **named)
                replica.agree()
            self._shift_seeds(index, -1)
            return result

        if self._brought.shard == "weights":
            self._release_others()  # Any function may write weights, of which the owner's copy stays.
        with self._observed(strategy):
            return strategy.run(one, args=args, kwargs=kwargs)


def _size(arguments: Any) -> int | None:
    """Return the number of rows of the first argument that has any, where the graph knows it."""
    tensors = [leaf for leaf in tf.nest.flatten(arguments) if isinstance(leaf, tf.Tensor) and leaf.shape.rank]
    return None if not tensors else tensors[0].shape[0]


def _spec(strategy: tf.distribute.Strategy, leaf: Any) -> Any:
    value = strategy.experimental_local_results(leaf)[0]
    return tf.TensorSpec(value.shape, value.dtype) if isinstance(value, tf.Tensor) else value
