"""A training step of the user's own, run by a replica: where TensorFlow and Keras let a gradient, an update or a
metric be seen.

Which step runs is kept where TensorFlow keeps the strategy of a thread and of its graphs, so that it is known in the
threads of replicas and in every function that the step traces, and nowhere else.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, Protocol

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.random.seed_generator import global_seed_generator as _global_seed_generator
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.autograph.impl import api
from tensorflow.python.distribute import distribute_lib

from kparallel.compat.distribute import OneReplica

__all__: list[str] = []


class RunningStep(Protocol):
    """What a running step does with the gradients that leave a tape, and with those that reach an optimizer."""

    def gradient(self, compute: Callable[[Any], Any], target: Any, sources: Any, output_gradients: Any) -> Any:
        """Return the gradients that `compute` gives for output gradients, those of the model's weights summed."""

    def jacobian(self, compute: Callable[[], Any], target: Any, sources: Any) -> Any:
        """Return a jacobian that `compute` computes, that of the model's weights as the gradients."""

    def apply(self, optimizer: Any, original: Callable[..., Any], grads: Any, trainable_variables: Any = None) -> Any:
        """Apply gradients by an optimizer's own method, in the place of it and with its arguments."""


class _InStep(OneReplica):
    """A strategy of one replica, as Keras's losses see it, which knows the step that runs."""

    def __init__(self, strategy: tf.distribute.Strategy, step: RunningStep) -> None:
        super().__init__(strategy)
        self.running_step = step


class _InLoop(_InStep):
    """The same, which says how many replicas there are."""

    def __init__(self, strategy: tf.distribute.Strategy, step: RunningStep) -> None:
        super().__init__(strategy, step)
        self.num_replicas_in_sync = int(strategy.num_replicas_in_sync)


@contextmanager
def running(step: RunningStep, loop: bool = False) -> Iterator[None]:
    """Run a step in a replica's context.

    Args:
        step: What sees its gradients.
        loop: Whether it is called in a loop of the user's own, where Keras's losses divide by the number of replicas;
            else they see one replica.
    """
    mode = distribute_lib._get_per_thread_mode()
    kind = _InLoop if loop else _InStep
    # The stack of modes is the graph's, and a graph that is traced inside begins with a copy of it.
    inside = distribute_lib._ThreadMode(kind(mode.strategy, step), mode.cross_replica_context, mode.replica_context)
    with _mode(inside):
        yield


@contextmanager
def outside_step() -> Iterator[None]:
    """Leave a running step for a moment: in the replica's context, under its own strategy."""
    mode = distribute_lib._get_per_thread_mode()
    # The strategy inside the view, under which collectives and variables are what they are.
    strategy = mode.strategy.strategy if isinstance(mode.strategy, _InStep) else mode.strategy
    with _mode(distribute_lib._ThreadMode(strategy, mode.cross_replica_context, mode.replica_context)):
        yield


@contextmanager
def _mode(mode: Any) -> Iterator[None]:
    distribute_lib._push_per_thread_mode(mode)
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()


def running_step() -> Any:
    """Return the step that runs in this thread and graph, or None."""
    return getattr(tf.distribute.get_strategy(), "running_step", None)


_APPLYING = (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer)


class _Swap:
    """Exchanges methods of classes while any thread traces a step; other threads' calls go on as they are.

    They are `tf.GradientTape.gradient` and `jacobian`, and what applies an optimizer's gradients.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[tuple[type, str, Callable[..., Any]]] = []
        self.notes: dict[int, list[Any]] = {}  # By thread, the optimizers that are called, and the variables assigned.

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            # Replicas are threads: the first to come exchanges the methods, the last to leave puts them back.
            if self._users > 1:
                return
            self._before = [(tf.GradientTape, "gradient", tf.GradientTape.gradient)]
            self._before += [(tf.GradientTape, "jacobian", tf.GradientTape.jacobian)]
            self._before += [(kind, "apply", kind.apply) for kind in _APPLYING]
            self._before += [(keras.Variable, "assign", keras.Variable.assign)]
            through = {"gradient": _gradient, "jacobian": _jacobian, "apply": _apply, "assign": _assign}
            for kind, name, method in self._before:
                setattr(kind, name, through[name](method))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                for kind, name, method in self._before:
                    setattr(kind, name, method)


def _gradient(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def gradient(
        tape: tf.GradientTape, target: Any, sources: Any, output_gradients: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        def compute(outputs: Any) -> Any:
            return original(tape, target, sources, outputs, *args, **kwargs)

        # A tape outside of any step has no running step, and gets its gradients as they are.
        step = running_step()
        return compute(output_gradients) if step is None else step.gradient(compute, target, sources, output_gradients)

    return gradient


def _jacobian(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def jacobian(tape: tf.GradientTape, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        step, compute = running_step(), partial(original, tape, target, sources, *args, **kwargs)
        return compute() if step is None else step.jacobian(compute, target, sources)

    return jacobian


def _apply(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def apply(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        _note(optimizer)
        step = running_step()
        if step is None:
            return original(optimizer, *args, **kwargs)
        return step.apply(optimizer, partial(original, optimizer), *args, **kwargs)

    return apply


def _assign(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def assign(variable: keras.Variable, *args: Any, **kwargs: Any) -> Any:
        _note(variable)
        return original(variable, *args, **kwargs)

    return assign


def _note(used: Any) -> None:
    noted = _swap.notes.get(threading.get_ident())
    if noted is not None:
        noted.append(used)


_swap = _Swap()


def through_steps() -> _Swap:
    """Return a context in which gradients that leave a tape, or reach an optimizer, go through the step that runs."""
    return _swap


@contextmanager
def noting_updates() -> Iterator[list[Any]]:
    """Give a list that gets each optimizer that this thread calls, and each Keras variable that it assigns."""
    with _swap:
        noted = _swap.notes[threading.get_ident()] = []
        try:
            yield noted
        finally:
            del _swap.notes[threading.get_ident()]


@contextmanager
def redirected(owners: Sequence[Any], name: str, through: Callable[[Any, Callable[..., Any]], Any]) -> Iterator[None]:
    """Let calls of a method go through a running step.

    Args:
        owners: The objects.
        name: Of their method.
        through: Takes an object and its method, returns what to call in its place.
    """
    # What the object itself had, or None where its class has the method: only the former has to be put back.
    before = [vars(owner).get(name) for owner in owners]
    for owner, had in zip(owners, before, strict=True):
        made: Any = through(owner, getattr(owner, name))
        made.in_place_of = had
        vars(owner)[name] = made
    try:
        yield
    finally:
        for owner, had in zip(owners, before, strict=True):
            if had is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = had


@contextmanager
def quietly() -> Iterator[None]:
    """Hold back TensorFlow's remark that a strategy runs slowly without a `tf.function`."""
    logger = tf.get_logger()

    def other(record: logging.LogRecord) -> bool:
        return "eagerly has significant overhead" not in record.getMessage()

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


@contextmanager
def drawing_from(generator: keras.random.SeedGenerator) -> Iterator[None]:
    """Let Keras's random functions that are given no seed draw from a generator, in this thread."""
    before = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
    try:
        yield
    finally:
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, before)


@contextmanager
def default_generator_of_success() -> Iterator[None]:
    """Drop a default generator that was made in a context which fails: its state belongs to what was traced there."""
    before = default_generator_if_made()
    try:
        yield
    except Exception:
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, before)
        raise


class CountingGenerator(keras.random.SeedGenerator):  # type: ignore[misc]
    """Counts its draws, also for functions that are given no seed.

    For these Keras multiplies the whole state. Replicas, each of which draws with its own seed added, would be left
    with states that no longer differ by that number: a checkpoint of one of them could not be resumed by the others.
    """

    def next(self, ordered: bool = True) -> Any:
        """Return the next seed."""
        return super().next(ordered=True)


def default_generator() -> keras.random.SeedGenerator:
    """Return the generator from which Keras's random functions draw that are given no seed."""
    # Made inside a graph, its state would belong to that graph.
    with tf.init_scope():  # It may have to be made.
        return _global_seed_generator()


def default_generator_if_made() -> keras.random.SeedGenerator | None:
    """Return that generator, or None while nothing has drawn from it: making it draws its seed from Python's."""
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def converted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that autograph converts in a graph, as it does what a strategy runs."""
    if tf.executing_eagerly():
        return function
    made: Callable[..., Any] = api.tf_convert(function, ag_ctx.ControlStatusCtx(ag_ctx.Status.ENABLED))
    return made
