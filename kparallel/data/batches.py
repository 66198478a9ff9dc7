"""The batches that Keras's loops read: whole batches, which the step divides, or batches that are divided already."""

import abc
import weakref
from collections.abc import Callable, Iterator, MutableSet
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.data import DataAdapter, class_weight_function
from kparallel.compat.distribute import dataset_strategy, replica_spec
from kparallel.compat.functions import traced
from kparallel.errors import DataError

__all__: list[str] = []


class Batches:
    """The batches of a dataset. An empty dataset is refused when it is first read.

    Args:
        dataset: A `tf.data.Dataset`, or a distributed dataset.
        change: A function that is applied to each batch, or None.
    """

    def __init__(self, dataset: Any, change: Callable[[Any], Any] | None = None) -> None:
        self._dataset = dataset
        self._change = change
        # Over all passes: only a dataset that has never had a batch is a mistake.
        self._seen = False
        self.passes = 0  # How many iterators were made: the order of a shuffled dataset is a function of it.
        self.watch: Callable[[int, Any], None] | None = None  # Is told each batch, and in which pass it is read.
        self._open: weakref.WeakSet[_Pass] = weakref.WeakSet()

    def __iter__(self) -> Iterator[Any]:
        # The iterator is made now, not at the first `next`: making it draws the order of a shuffled dataset.
        self.passes += 1
        made = _Pass(self, iter(self._dataset), self.passes)
        self._open.add(made)
        return made

    def close(self) -> None:
        """End all passes, so that TensorFlow's iterators go now, with their threads.

        Keras, a traceback and the step keep a pass in cycles of references. The iterator in it would go in some later
        garbage collection, which may begin at any place, and there wait for threads that run the Python of a dataset.
        """
        for each in list(self._open):
            each.close()

    def seen(self, number: int, batch: Any) -> Any:
        """Return a batch that a pass has read, as it is given on."""
        self._seen = True
        changed = batch if self._change is None else self._change(batch)
        if self.watch is not None:
            self.watch(number, changed)
        return changed

    def check_seen(self) -> None:
        """Refuse data that have never had a batch, at the end of a pass."""
        if not self._seen:
            raise DataError(
                "Expected a dataset with at least one batch, received an empty one. Look at what filters it, "
                "and at .batch(n, drop_remainder=True), which drops fewer than n rows."
            )

    def spec(self) -> Any:
        """Return the spec of one replica's part without reading a batch, or None if a rank is unknown."""
        spec = keras.tree.map_structure(replica_spec, self._dataset.element_spec)
        # The only change is to apply class weights, which adds a sample weight.
        # (x, y)  ─►  (x, y, sample weight)
        if self._change is not None and keras.tree.is_nested(spec) and len(spec) == 2:
            spec = (*spec, tf.TensorSpec((None,), keras.config.floatx()))
        shapes = [leaf.shape for leaf in keras.tree.flatten(spec) if leaf is not None]
        if any(shape.rank == 0 for shape in shapes):
            raise DataError(
                f"Expected batches, whose first dim is the rows, received elements of {spec}. Call dataset.batch(n)."
            )
        return spec if all(shape.rank is not None for shape in shapes) else None


class _Pass(Iterator[Any]):
    """One pass over batches.

    Args:
        batches: What it reads.
        iterator: Over the dataset.
        number: Of the pass.
    """

    def __init__(self, batches: Batches, iterator: Iterator[Any], number: int) -> None:
        self._batches = batches
        self._iterator: Iterator[Any] | None = iterator
        self._number = number

    def __next__(self) -> Any:
        if self._iterator is None:
            raise StopIteration
        try:
            batch = next(self._iterator)
        except StopIteration:
            self.close()
            self._batches.check_seen()
            raise
        return self._batches.seen(self._number, batch)

    def close(self) -> None:
        """Let go of the iterator."""
        self._iterator = None


class WholeBatchStrategy:
    """A strategy that distributes no dataset, so that Keras's loops pass whole batches to the step.

    TensorFlow's own rebatching may move rows from one batch to another if it does not know the batch size.

    Args:
        strategy: The strategy that has all other methods and attributes.
        reading: Takes note of the batches.
    """

    def __init__(self, strategy: tf.distribute.Strategy, reading: MutableSet[Batches]) -> None:
        self._strategy = strategy
        self._reading = reading

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Batches:
        """Return the dataset's whole batches."""
        batches = dataset if isinstance(dataset, Batches) else Batches(dataset)
        self._reading.add(batches)
        return batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)


class PerReplicaAdapter(DataAdapter, abc.ABC):  # type: ignore[misc]
    """Batches that are divided between the replicas already; the global batch size is unknown."""

    @abc.abstractmethod
    def get_tf_dataset(self) -> Batches:
        """Return the batches, each divided between this worker's replicas."""

    @property
    def batch_size(self) -> None:
        """Unknown."""
        return None

    @property
    def has_partial_batch(self) -> None:
        """Unknown."""
        return None

    @property
    def partial_batch_size(self) -> None:
        """Unknown."""
        return None


class PerReplicaDataset(PerReplicaAdapter):
    """An adapter from a distributed dataset to Keras's loops.

    Args:
        dataset: A dataset from `strategy.experimental_distribute_dataset` or `distribute_datasets_from_function`.
        strategy: The wrapped model's strategy.
        class_weight: The weight of each class, or None. Keras itself cannot apply it to such a dataset.

    Raises:
        DataError: The dataset was distributed by another strategy.
    """

    def __init__(
        self, dataset: Any, strategy: tf.distribute.Strategy, class_weight: dict[int, float] | None = None
    ) -> None:
        if dataset_strategy(dataset) is not strategy:
            raise DataError(
                "Expected a dataset distributed by this model's own strategy, received one of another strategy. "
                "Call wrapped.distribute_strategy.experimental_distribute_dataset(dataset)."
            )
        self._dataset = dataset
        self._strategy = strategy
        self._class_weight = class_weight

    def get_tf_dataset(self) -> Batches:
        """Return the batches, each divided between the replicas."""
        if self._class_weight is None:
            return Batches(self._dataset)
        # The classes are looked up on each replica, in the part of the batch that it has.
        weigh = class_weight_function(self._class_weight)

        change = traced(lambda batch: self._strategy.run(weigh, args=tuple(batch)), reduce_retracing=True)

        return Batches(self._dataset, lambda batch: self._kept_apart(change(batch)))

    def _kept_apart(self, batch: Any) -> Any:
        """Return a batch whose leaves are per-replica values. `run` on one local replica returns plain tensors."""

        def per_replica(leaf: Any) -> Any:
            if leaf is None or isinstance(leaf, tf.distribute.DistributedValues):
                return leaf
            return self._strategy.experimental_distribute_values_from_function(lambda _: leaf)

        return keras.tree.map_structure(per_replica, batch)

    @property
    def num_batches(self) -> int | None:
        """The number of batches, or None if it is unknown."""
        # Negative where TensorFlow does not know it, or where there is no end.
        number = int(getattr(self._dataset, "cardinality", -1))
        return number if number >= 0 else None
