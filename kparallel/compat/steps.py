"""A training step of the user's own, run by a replica: where TensorFlow and Keras let a gradient, an update or a
metric be seen.

Which step runs is kept where TensorFlow keeps the strategy of a thread and of its graphs, so that it is known in the
threads of replicas and in every function that the step traces, and nowhere else.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.random.seed_generator import global_seed_generator as _global_seed_generator
from tensorflow.python.distribute import distribute_lib

from kparallel.compat.distribute import OneReplica

__all__: list[str] = []


class RunningStep(Protocol):
    """What a running step does with the gradients that leave a tape."""

    def reduced(self, gradients: Any, sources: Any) -> Any:
        """Return the gradients, those of the model's weights summed over the replicas."""


class _InStep(OneReplica):
    """A strategy of one replica, as Keras's losses see it, which knows the step that runs."""

    def __init__(self, strategy: tf.distribute.Strategy, step: RunningStep) -> None:
        super().__init__(strategy)
        self.running_step = step


@contextmanager
def running(step: RunningStep) -> Iterator[None]:
    """Run a step in a replica's context: Keras's losses see one replica, and do not divide by their number."""
    mode = distribute_lib._get_per_thread_mode()
    inside = distribute_lib._ThreadMode(_InStep(mode.strategy, step), mode.cross_replica_context, mode.replica_context)
    with _mode(inside):
        yield


@contextmanager
def beside_step() -> Iterator[None]:
    """Leave a running step for a moment: in the replica's context, under its own strategy."""
    mode = distribute_lib._get_per_thread_mode()
    strategy = mode.strategy._strategy if isinstance(mode.strategy, _InStep) else mode.strategy
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


class _Swap:
    """Exchanges `tf.GradientTape.gradient` while any thread traces a step; other threads' tapes go on as they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._original = tf.GradientTape.gradient

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._original = tf.GradientTape.gradient
                tf.GradientTape.gradient = _through_step(self._original)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                tf.GradientTape.gradient = self._original


def _through_step(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def gradient(tape: tf.GradientTape, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        found, step = original(tape, target, sources, *args, **kwargs), running_step()
        return found if step is None else step.reduced(found, sources)

    return gradient


_swap = _Swap()


def gradients_through_steps() -> _Swap:
    """Return a context in which the gradients that leave a tape in a running step go through it."""
    return _swap


@contextmanager
def redirected(owners: Sequence[Any], name: str, through: Callable[[Any, Callable[..., Any]], Any]) -> Iterator[None]:
    """Let calls of a method go through a running step.

    Args:
        owners: The objects.
        name: Of their method.
        through: Takes an object and its method, returns what to call in its place.
    """
    before = [vars(owner).get(name) for owner in owners]
    for owner in owners:
        vars(owner)[name] = through(owner, getattr(owner, name))
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


def default_generator() -> keras.random.SeedGenerator:
    """Return the generator from which Keras's random functions draw that are given no seed."""
    return _global_seed_generator()
