"""Data of which each worker reads only its own shard: record files and TensorFlow Datasets.

By default every worker reads all data, and the step takes each worker's share of every batch. With shards no worker
reads what other workers train on. The order of the rows is a function of (seed, epoch), so a resumed run continues with
the rows that the interrupted run would have read next.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.compat.data import class_weight_function
from kparallel.data.batches import Batches, PerReplicaAdapter
from kparallel.data.share import split_sizes
from kparallel.errors import DataError

__all__: list[str] = []

Read = Callable[[int, int, int], tf.data.Dataset]


class Shards:
    """Data that are read in shards, one for each worker. Pass it to `fit` or `evaluate` as x.

    `kparallel.read_records` and `kparallel.read_tfds` make it.

    Args:
        read: A function of (shard, shards, seed of the epoch) that returns the shard's rows, not batched.
        batch_size: The number of rows of the global batch.
        seed: The seed of the order of the rows.
    """

    def __init__(self, read: Read, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise DataError(f"Expected a batch_size of at least 1, received {batch_size}.")
        self._read = read
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def batches(self, shard: int, shards: int) -> tf.data.Dataset:
        """Return one worker's batches of the current epoch."""
        # The workers' batches together make the global batch, as its shares would.
        rows = split_sizes(self.batch_size, shards)[shard]
        if not rows:
            raise DataError(f"Expected a global batch of at least {shards} rows for as many workers, received {rows}.")
        # A new seed for each epoch, which follows from the two numbers that a checkpoint has.
        seed = int(np.random.default_rng((self.seed, self.epoch)).integers(2**31))
        return self._read(shard, shards, seed).batch(rows).prefetch(tf.data.AUTOTUNE)


class ShardBatches(PerReplicaAdapter):
    """An adapter from one worker's shard to Keras's loops.

    Args:
        shards: The data.
        strategy: The wrapped model's strategy.
        worker: This worker's index.
        workers: The number of workers.
        class_weight: The weight of each class, or None.
    """

    def __init__(
        self,
        shards: Shards,
        strategy: tf.distribute.Strategy,
        worker: int,
        workers: int,
        class_weight: dict[int, float] | None = None,
    ) -> None:
        self._shards = shards
        self._weigh = None if class_weight is None else class_weight_function(class_weight)
        self._strategy = strategy
        self._worker = worker
        self._workers = workers

    def get_tf_dataset(self) -> Batches:
        """Return the batches, each divided between this worker's replicas."""
        return Batches(self)

    @property
    def element_spec(self) -> Any:
        """The spec of a batch."""
        return self._read().element_spec

    def __iter__(self) -> Iterator[Any]:
        for batch in self._read():
            yield self._divided(batch)
        # A complete pass counts itself. In a cluster `fit` sets the number of each epoch as well.
        self._shards.epoch += 1

    def _read(self) -> tf.data.Dataset:
        batches = self._shards.batches(self._worker, self._workers)
        return batches if self._weigh is None else batches.map(self._weigh)

    def _divided(self, batch: Any) -> Any:
        """Divide a batch between the local replicas."""
        local = self._strategy.num_replicas_in_sync // self._workers
        first = self._worker * local  # The index of this worker's first replica.

        def per_replica(leaf: Any) -> Any:
            sizes = split_sizes(int(leaf.shape[0]), local)

            def share(context: Any) -> Any:
                index = context.replica_id_in_sync_group - first
                return leaf[sum(sizes[:index]) : sum(sizes[: index + 1])]

            return self._strategy.experimental_distribute_values_from_function(share)

        return keras.tree.map_structure(per_replica, batch)

    @property
    def num_batches(self) -> None:
        """Unknown: shards may differ in size."""
        return None


def read_records(
    files: Sequence[str | Path],
    parse: Callable[[tf.Tensor], Any],
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: int = 10_000,
) -> Shards:
    """Read TFRecord files in shards: whole files if every worker gets at least one, else every n-th record.

    Args:
        files: The paths of the files, the same on every worker.
        parse: A function from one serialized record, a scalar string tensor, to an element: x, (x, y) or (x, y,
            weight).
        batch_size: The number of rows of the global batch.
        seed: The seed of the order of files and rows. The order changes with each epoch. Default 0.
        shuffle: The number of rows in the shuffle buffer; 0 keeps the order of the files. Default 10,000.

    Returns:
        Data for `fit` or `evaluate` of a wrapped model.

    Raises:
        DataError: There is no file, or one is missing.

    Example:
        >>> read_records([], tf.io.parse_tensor, batch_size=8)
        Traceback (most recent call last):
        kparallel.errors.DataError: Expected at least one file, received none.
    """
    names = [str(file) for file in files]
    if not names:
        raise DataError("Expected at least one file, received none.")
    missing = [name for name in names if not tf.io.gfile.exists(name)]
    if missing:
        raise DataError(f"Expected files that exist, received {missing[:4]}.")

    def read(shard: int, shards: int, epoch_seed: int) -> tf.data.Dataset:
        order = np.random.default_rng(epoch_seed).permutation(len(names)) if shuffle else range(len(names))
        # Every worker computes the same permutation, so the shards are disjoint.
        ordered = [names[index] for index in order]
        if len(names) >= shards:
            # files    0 1 2 3 4      2 workers:   worker 0 reads 0 2 4,   worker 1 reads 1 3
            rows = tf.data.TFRecordDataset(ordered[shard::shards])
        else:
            if shard == 0 and shards > 1:
                warnings.warn(
                    f"{len(names)} files for {shards} workers: each reads all and keeps every {shards}th record.",
                    stacklevel=2,
                )
            rows = tf.data.TFRecordDataset(ordered).shard(shards, shard)
        if shuffle:
            rows = rows.shuffle(shuffle, seed=epoch_seed, reshuffle_each_iteration=False)
        return rows.map(parse, num_parallel_calls=tf.data.AUTOTUNE)

    return Shards(read, batch_size, seed)


def read_tfds(
    name: str,
    split: str,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: int = 10_000,
    prepare: Callable[..., Any] | None = None,
    **load: Any,
) -> Shards:
    """Read a split of TensorFlow Datasets in even shards, one for each worker.

    Args:
        name: The name of the dataset, as for `tfds.load`.
        split: The split, as for `tfds.load`.
        batch_size: The number of rows of the global batch.
        seed: The seed of the order of rows. The order changes with each epoch. Default 0.
        shuffle: The number of rows in the shuffle buffer; 0 keeps the order of the files. Default 10,000.
        prepare: A function that is applied to each element. Default none.
        **load: Further arguments of `tfds.load`. The default of `as_supervised` is True.

    Returns:
        Data for `fit` or `evaluate` of a wrapped model.

    Raises:
        ImportError: TensorFlow Datasets is not installed; the extra `tfds` brings it.
    """
    import tensorflow_datasets as tfds

    def read(shard: int, shards: int, epoch_seed: int) -> tf.data.Dataset:
        # No row is in two of them, and their sizes differ by at most one row.
        own_split = tfds.even_splits(split, n=shards)[shard] if shards > 1 else split
        config = tfds.ReadConfig(shuffle_seed=epoch_seed, interleave_cycle_length=1)
        rows = tfds.load(name, split=own_split, read_config=config, **{"as_supervised": True, "try_gcs": False, **load})
        if shuffle:
            rows = rows.shuffle(shuffle, seed=epoch_seed, reshuffle_each_iteration=False)
        return rows if prepare is None else rows.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)

    return Shards(read, batch_size, seed)
