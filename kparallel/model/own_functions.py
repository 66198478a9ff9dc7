"""The functions that Keras's loops call where a model has a step of its own."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kparallel.comm.failures import translate_worker_loss
from kparallel.compat.copies import as_ordinary
from kparallel.compat.functions import traced
from kparallel.compat.layers import flatten_layers
from kparallel.compat.optimizers import only_built
from kparallel.compat.steps import default_generator
from kparallel.compat.variables import variable_of_workers
from kparallel.data.share import RowCounts, row_count
from kparallel.errors import ModelError
from kparallel.model.build import place_new
from kparallel.model.columns import owners_of
from kparallel.model.functions import counts_of, first_share, over_batches, over_lists, tensors
from kparallel.model.runtime import Runtime
from kparallel.model.whole_batch import whole_batch
from kparallel.model_variables import optimizers_of, variables_of
from kparallel.ownstep.attributes import Attributes
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


def build_by_step(model: Any, runtime: Runtime, spec: Any) -> None:
    """Let the model's own `train_step` make what is missing before a checkpoint is read into it, where it can.

    Args:
        model: The wrapped model.
        runtime: Its plan and what carries it out.
        spec: Of a batch; None where ranks are unknown.
    """
    # A step that insists on the number of rows makes nothing here, but at the first batch.
    with contextlib.suppress(TypeError, ValueError):
        if spec is not None:
            _OwnFunction(model, runtime, "train_step").build(spec)


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
        self._attributes = Attributes(model)
        self._warned = False
        self._due = runtime.check != "off" and runtime.placement.replicas > 1
        self._graphs: dict[RowCounts, Callable[[Any], Any]] = {}

    def __call__(self, batch: Any) -> Any:
        batch, runtime = tensors(batch), self._runtime
        counts = counts_of(runtime, batch)
        with translate_worker_loss():
            try:
                graph = self._graph(batch, counts)
                if self._due:
                    self._check(batch, counts)
                if runtime.shared_out is not None and self._name == "train_step":
                    runtime.shared_out.release()
                return graph(batch)
            except tf.errors.OpError:
                runtime.placement.abort()
                raise

    def _graph(self, batch: Any, counts: RowCounts) -> Callable[[Any], Any]:
        if counts not in self._graphs:
            self.build(batch)
        if self._moves != self._runtime.moves:
            self._step, self._moves = None, self._runtime.moves
            # As in `_Compiled`: graphs read and write variables where they lay.
            self._graphs.clear()
        if counts not in self._graphs:
            self._attributes.changed()
            self._graphs[counts] = self._made(batch, counts)
            self._warn_of(self._attributes.changed())
        return self._graphs[counts]

    def _warn_of(self, attributes: list[str]) -> None:
        """Say once that a step keeps something in Python."""
        if not attributes or self._warned or self._runtime.placement.replicas == 1:
            return
        self._warned = True
        warnings.warn(
            f"{self._model.__class__.__name__}.{self._name} sets {', '.join(map(repr, attributes))} of the model in "
            "Python, which happens whenever the step is traced: kparallel traces it for each replica, plain Keras "
            "once. What depends on it may differ from plain Keras. Keep it in a weight, made by add_weight.",
            stacklevel=3,
        )

    def build(self, batch: Any) -> None:
        """Let the step make what is missing, as in plain Keras's first step: traced on one device, and never run.

        Args:
            batch: A batch, or its spec.
        """
        owners = [*flatten_layers(self._model), *optimizers_of(self._model)]
        # Layers and optimizers that are built have all their variables. Tracing takes a while, so it is not done
        # without need.
        if not self._built and not all(owner.built for owner in owners):
            self._attributes.changed()
            with as_ordinary(variables_of(self._model)), only_built(optimizers_of(self._model)):
                traced(self._function()).get_concrete_function(first_share(self._runtime, batch))
            # Numbers may be set where the model is built, as the sizes of its inputs are.
            self._warn_of(self._attributes.changed((bool,)))
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
            return one
        function = traced(one, reduce_retracing=True)
        try:
            function.get_concrete_function(batch)
        except (TypeError, ValueError):
            if step.sized:
                raise
            # Python in the step may insist on the number of rows, as plain Keras gives it with drop_remainder.
            # Traced once more, with the number of rows as a constant.
            step.sized = True
            function = traced(one, reduce_retracing=True)
            function.get_concrete_function(batch)
        self._check_weights(step)
        made: Callable[[Any], Any] = function
        return made

    def _check_weights(self, step: OwnStep) -> None:
        """Refuse a step that writes, outside of training, weights of which each worker may hold the value."""
        if self._runtime.shared_out is None or self._name == "train_step":
            return
        shared = [weight for weight in self._model.weights if variable_of_workers(weight) is not None]
        written = [weight.path for weight in shared if id(weight) in step.assigned]
        if written:
            raise ModelError(
                f"Expected {self._model.__class__.__name__}.{self._name} to leave weights as they are with "
                f"shard='weights' over several workers, received one that writes {written[:4]}. Write them in "
                "train_step, or say shard='optimizer'."
            )

    def _check(self, batch: Any, counts: RowCounts) -> None:
        """Compare the step with one device's on a few rows: once, with the first batch that has two."""
        assert self._step is not None
        runtime = self._runtime
        whole = whole_batch(batch, runtime)
        self._due = row_count(whole) < 2
        if self._due:
            return
        if runtime.shared_out is not None:  # One device reads and writes all slots.
            runtime.shared_out.gather_if_apart()
        if self._model.run_eagerly:
            self._step.find_out(runtime.strategy, batch, counts)
        graph = not runtime.placement.group.is_single
        check = StepCheck(self._model, self._step, self._function(), self._name, runtime.strategy, graph)
        check.run(whole, counts, runtime.check)
