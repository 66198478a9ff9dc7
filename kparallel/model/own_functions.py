"""The functions that Keras's loops call where a model has a step of its own."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.failures import translate_worker_loss
from kparallel.compat.functions import traced
from kparallel.compat.layers import flatten_layers
from kparallel.compat.steps import default_generator
from kparallel.data.share import RowCounts
from kparallel.errors import ModelError
from kparallel.model.build import place_new
from kparallel.model.functions import counts_of, first_share, over_batches, over_lists, tensors
from kparallel.model.runtime import Runtime
from kparallel.model.takeover import owners_of
from kparallel.model_variables import optimizers_of
from kparallel.ownstep.check import StepCheck
from kparallel.ownstep.step import OwnStep

__all__: list[str] = []


def whole_step(model: Any, runtime: Runtime, name: str) -> Callable[[Any], Any]:
    """Return a function of one batch: a step of the model's, its own or Keras's, run whole on each replica's rows."""
    return _OwnFunction(model, runtime, name)


def own_train_function(model: Any, runtime: Runtime) -> Callable[[Any], Any]:
    """Return the function that `fit` calls with an iterator over batches, which runs the model's own `train_step`."""
    return over_batches(model, runtime, whole_step(model, runtime, "train_step"))


def own_test_function(model: Any, runtime: Runtime) -> Callable[[Any], Any]:
    """Return the function that `evaluate` calls with an iterator over batches, which runs the model's `test_step`."""
    return over_batches(model, runtime, whole_step(model, runtime, "test_step"))


def own_predict_function(model: Any, runtime: Runtime) -> Callable[[list[Any]], Any]:
    """Return the function that `predict` calls with a list of batches, which runs the model's own `predict_step`."""
    return over_lists(runtime, whole_step(model, runtime, "predict_step"))


class _OwnFunction:
    """A function of one batch: a step of the model's on it, whole on each replica's rows.

    Args:
        model: The wrapped model; what its step has not built is built before variables are placed.
        runtime: Its plan and what carries it out.
        name: Of the step.
    """

    def __init__(self, model: Any, runtime: Runtime, name: str) -> None:
        self._model = model
        self._runtime = runtime
        self._name = name
        self._step: OwnStep | None = None
        self._moves = runtime.moves
        self._built = False
        self._checked = False
        self._graphs: dict[RowCounts, Callable[[Any], Any]] = {}

    def __call__(self, batch: Any) -> Any:
        batch, runtime = tensors(batch), self._runtime
        counts = counts_of(runtime, batch)
        with translate_worker_loss():
            try:
                return self._graph(batch, counts)(batch)
            except tf.errors.OpError:
                runtime.placement.abort()
                raise

    def _graph(self, batch: Any, counts: RowCounts) -> Callable[[Any], Any]:
        if counts not in self._graphs:
            self._build(batch)
        if self._moves != self._runtime.moves:
            self._step, self._moves = None, self._runtime.moves
            self._graphs.clear()
        if counts not in self._graphs:
            self._graphs[counts] = self._made(batch, counts)
        return self._graphs[counts]

    def _build(self, batch: Any) -> None:
        """Let the step make what is missing, as in plain Keras's first step: traced on one device, and never run."""
        owners = [*flatten_layers(self._model), *optimizers_of(self._model)]
        if not self._built and not all(owner.built for owner in owners):
            traced(self._function()).get_concrete_function(first_share(self._runtime, batch))
        self._built = True
        place_new(self._model, self._runtime)

    def _function(self) -> Callable[[Any], Any]:
        """Return the user's step."""
        step = getattr(self._model, self._name)
        plain: Callable[[Any], Any] = getattr(step, "python_function", step)  # Of one that is decorated: tf.function.
        return plain

    def _made(self, batch: Any, counts: RowCounts) -> Callable[[Any], Any]:
        runtime = self._runtime
        if self._step is None:
            placement = runtime.placement
            if runtime.slots is not None and self._name == "train_step":
                raise ModelError(
                    "Expected Keras's own training step with shard='optimizer' over several workers, received one that "
                    f"runs {self._model.__class__.__name__}'s own code, which may read slots that another worker "
                    "holds. Say shard=None."
                )
            draws = runtime.draws() if placement.replicas > 1 else default_generator()
            self._step = OwnStep(
                self._model,
                self._function(),
                placement,
                runtime.loss_reduction,
                runtime.jit,
                draws,
                owners_of(self._model, runtime),
            )
        step = self._step

        def one(data: Any) -> Any:
            return step.run(runtime.strategy, data, counts)

        if self._model.run_eagerly:
            if self._check_is_due(counts):
                step.find_out(runtime.strategy, batch, counts)
                self._check(batch, counts)
            return one
        function = traced(one, reduce_retracing=True)
        try:
            function.get_concrete_function(batch)
        except (TypeError, ValueError):
            if step.sized:
                raise
            # Python in the step may insist on the number of rows, as plain Keras gives it with drop_remainder.
            step.sized = True
            function = traced(one, reduce_retracing=True)
            function.get_concrete_function(batch)
        if self._check_is_due(counts):
            self._check(batch, counts)
        made: Callable[[Any], Any] = function
        return made

    def _check_is_due(self, counts: RowCounts) -> bool:
        """Tell whether to compare the step with one device's: once, where all rows of a batch are here."""
        if self._checked or self._runtime.check == "off":
            return False
        placement = self._runtime.placement
        here = isinstance(counts.rows, int) or placement.group.is_single
        rows = counts.rows if isinstance(counts.rows, int) else sum(counts.rows)
        return here and placement.replicas > 1 and rows > 1

    def _check(self, batch: Any, counts: RowCounts) -> None:
        assert self._step is not None
        self._checked = True
        runtime = self._runtime
        graph = not runtime.placement.group.is_single
        check = StepCheck(self._model, self._step, self._function(), self._name, runtime.strategy, graph)
        check.run(_joined(batch, runtime), counts, runtime.check)


def _joined(batch: Any, runtime: Runtime) -> Any:
    """Return a batch whole, which may come divided between the replicas of this process."""

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, tf.distribute.DistributedValues):
            return leaf
        return tf.concat(runtime.strategy.experimental_local_results(leaf), 0)

    return keras.tree.map_structure(whole, batch)
