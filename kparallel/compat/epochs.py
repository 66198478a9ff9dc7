"""How Keras goes through the epochs of its data, and whether data can be gone through once more in the same order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from kparallel.compat.data import epoch_batches
from kparallel.compat.functions import called_graphs, traced

__all__: list[str] = []

# Operations that write variables, as a `SeedGenerator` and a `tf.random.Generator` do at each draw.
_WRITES = ("Assign", "Rng", "Stateful", "ResourceScatter")
_SHUFFLES = ("ShuffleDataset", "ShuffleDatasetV2", "ShuffleDatasetV3", "ShuffleAndRepeatDataset", "RandomDataset")


@dataclass(frozen=True)
class Position:
    """Where `fit` stands in an epoch, and in its pass over the data.

    Args:
        length: How many batches the data have, as far as Keras knows; None if it does not.
        steps: How many steps of the epoch are done.
        passes: How many iterators over the data were made.
        batches: How many were read of the pass in which the epoch goes on; None where each epoch has its own.
        seen: How many steps Keras had counted in that pass.
    """

    length: int | None
    steps: int = 0
    passes: int = 0
    batches: int | None = None
    seen: int = 0


class TrainingData:
    """What `fit` reads, and where it stands.

    Args:
        epoch_iterator: Keras's.
        begin_epoch: Called at the start of each epoch, after its callbacks and before anything is read.
    """

    def __init__(self, epoch_iterator: Any, begin_epoch: Callable[[], None]) -> None:
        self._epochs = epoch_iterator
        self._begin_epoch = begin_epoch
        self._resumed: Callable[[], Iterator[Any]] | None = None
        # Keras calls this method once for each epoch, after the callbacks and before it reads anything. The iterator's
        # own entry hides that of its class.
        self._plain = epoch_iterator._enumerate_iterator
        epoch_iterator._enumerate_iterator = self._follow
        self.batches = epoch_batches(epoch_iterator)

    @property
    def py_dataset(self) -> keras.utils.PyDataset | None:
        """The `PyDataset` that is read, if it is one."""
        adapter = self._epochs.data_adapter
        return adapter.py_dataset if isinstance(adapter, PyDatasetAdapter) else None

    @property
    def shuffles_py_dataset(self) -> bool:
        """Whether Keras shuffles the batches of a `PyDataset`, by Python's own generator."""
        adapter = self._epochs.data_adapter
        return bool(isinstance(adapter, PyDatasetAdapter) and adapter.shuffle)

    @property
    def goes_on(self) -> bool:
        """Whether the next epoch goes on in the pass that is read, as with `steps_per_epoch`."""
        return bool(self._epochs.steps_per_epoch) and self._epochs._current_iterator is not None

    @property
    def seen(self) -> int:
        """How many steps Keras has counted in this pass."""
        return int(self._epochs._steps_seen)

    @property
    def length(self) -> int | None:
        """How many batches Keras takes the data to have: of some it knows after the first epoch."""
        length: int | None = self._epochs._num_batches
        return length

    @property
    def steps_per_epoch(self) -> int | None:
        """As `fit` was given it."""
        steps: int | None = self._epochs.steps_per_epoch
        return steps

    @property
    def steps_per_execution(self) -> int:
        """How many steps one call of Keras's takes."""
        return int(self._epochs.steps_per_execution)

    def resume(self, at: Position, begin: Callable[[], None]) -> None:
        """Let the next epoch begin after steps that are done.

        Args:
            at: Where the interrupted process stood.
            begin: Called when the epoch begins, after its callbacks and before anything is read.
        """
        self._resumed = lambda: self._resume(at, begin)

    def _follow(self) -> Iterator[Any]:
        """Go through an epoch as Keras does."""
        self._begin_epoch()
        resumed, self._resumed = self._resumed, None
        return self._plain() if resumed is None else resumed()

    def _resume(self, at: Position, begin: Callable[[], None]) -> Iterator[Any]:
        epochs = self._epochs
        if epochs._num_batches is None:
            # Keras finds out the length of some data in the first epoch, which the resumed process does not run.
            epochs._num_batches = at.length
        begin()
        # passes of the interrupted process    1   2   3          in the middle of an epoch of pass 3
        # made here without being read         1   2              then 3 is made, and read up to the step
        before = at.passes - 1 if at.steps or at.batches is not None else at.passes
        while self.batches.passes < before:
            iter(self.batches)  # Draws an order, as the one that was interrupted did.
        if at.batches is not None:
            # An epoch that goes on in a pass finds the pass here, and takes the next batches of it.
            epochs._current_iterator = _skip(iter(self.batches), at.batches)
            epochs._steps_seen = at.seen - at.steps
        for first, last, iterator in self._plain():
            # Steps that are done are counted, as Keras's own numbers have to be right, and not run.
            if first >= at.steps:
                yield first, last, iterator
            elif at.batches is None:
                _skip(iterator, epochs.steps_per_execution)


def _skip(iterator: Iterator[Any], batches: int) -> Iterator[Any]:
    for _ in range(batches):
        next(iterator, None)
    return iterator


def has_global_seed() -> bool:
    """Return whether TensorFlow's random operations have a seed, as after `keras.utils.set_random_seed`."""
    # A graph takes over the global seed when it is made.
    return traced(lambda: None).get_concrete_function().graph.seed is not None


def why_unrepeatable(dataset: tf.data.Dataset) -> str:
    """Return in words why a dataset may give other batches when it is read again, or the empty text.

    Args:
        dataset: As `fit` takes it.
    """
    if dataset.options().deterministic is False:
        return "gives its elements in no fixed order (deterministic=False)"
    name = type(dataset).__name__
    if "Generator" in name:
        return "is made of a generator"
    if str(getattr(dataset, "_deterministic", "default")) == "false":
        return "gives its elements in no fixed order (deterministic=False)"
    seeds = [getattr(dataset, field, None) for field in ("_seed", "_seed2")]
    if seeds[0] is not None and not any(int(tf.get_static_value(seed)) for seed in seeds):
        return "shuffles without a seed"
    for function in dataset._functions():
        if reason := _why_function(function.function.graph):
            return reason
    return next((reason for part in dataset._inputs() if (reason := why_unrepeatable(part))), "")


def _why_function(graph: Any) -> str:
    for operation in graph.get_operations():
        if operation.type == "GeneratorDataset":
            return "is made of a generator"
        attributes = operation.node_def.attr
        if "seed" in attributes and "seed2" in attributes and not (attributes["seed"].i or attributes["seed2"].i):
            return f"has a random operation without a seed ({operation.type})"
        if operation.type in _SHUFFLES:
            # Two numbers, both 0 for none; a seed that is set is computed here, and has no static value.
            seeds = [tf.get_static_value(value) for value in operation.inputs if value.dtype == tf.int64][-2:]
            if all(seed is not None and not seed for seed in seeds):
                return "shuffles without a seed"
        # What a pass leaves in a variable is not there in a process that does not read the passes before.
        if operation.type.startswith(_WRITES) and operation.type != "StatefulPartitionedCall":
            return f"changes a variable where it is read ({operation.type}), as a random layer in map does"
        for graph_inside in called_graphs(operation).values():
            if reason := _why_function(graph_inside):
                return reason
    return ""
