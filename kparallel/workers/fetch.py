"""Reads batches in a cluster and checks that all workers read the same batches and reach the end together."""

from typing import Any

import keras
import tensorflow as tf

from kparallel.data.share import slice_rows
from kparallel.engine.placement import Placement
from kparallel.errors import DataError
from kparallel.resume.epoch import EpochState
from kparallel.workers.drift import check_same_batch

__all__: list[str] = []

_READS = "reads a batch"


class Fetch:
    """Reads batches for the step, and checks that all workers read the same.

    At an iterator's first batch, and at each batch of data of unknown size, every worker sends what it has read:

    ```text
    ["whole", digest]     a batch that the step divides
    ["divided", digest]   this worker's share of a batch
    ["end", digest]       no more batches
    ["failed", error]     reading raised an error
    ```

    Args:
        placement: The group of workers, and the communicators to abort if reading fails.
        strategy: The strategy; it makes a batch without rows for a worker whose shard ends early.
        epoch: The state of reading: whether the number of batches is known, and the digest.
    """

    def __init__(self, placement: Placement, strategy: tf.distribute.Strategy, epoch: EpochState) -> None:
        self._placement = placement
        self._group = placement.group
        self._strategy = strategy
        self._epoch = epoch
        self._iterator: Any = None
        # Made from the last divided batch, with its structure and dtypes. None before the first one.
        self._without_rows: Any = None

    def __call__(self, iterator: Any) -> Any:
        """Return the next batch, or None at the data's end.

        Raises:
            DataError: Workers have read different batches, or reached the end at different batches.
        """
        if self._group.is_single:
            return next(iterator, None)
        # A collective at every batch would cost time. With a known number of batches the first one is enough:
        # afterwards the workers compare digests once for each epoch.
        # A new iterator is a new pass over the data: an epoch, or a validation.
        compares, self._iterator = iterator is not self._iterator or self._epoch.unsized, iterator
        try:
            batch = next(iterator, None)
        except Exception as error:
            # The others wait for this worker in the exchange below, in which it then takes part with its error.
            if compares:
                self._group.exchange(_READS, ["failed", f"{type(error).__name__}: {error}"])
            else:
                self._placement.abort()  # The others wait for this worker inside the step.
            raise
        is_divided = any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in keras.tree.flatten(batch))
        state = "end" if batch is None else "divided" if is_divided else "whole"
        if state == "whole":
            self._epoch.digest.add(batch)
        return self._compared(state, batch) if compares else batch

    def _compared(self, state: str, batch: Any) -> Any:
        """Compare with the other workers what has been read, and return the batch for the step."""
        digest = self._epoch.digest
        answers = self._group.exchange(_READS, [state, str(digest)])
        states = [entry for entry, _ in answers]
        if "failed" in states:
            index = states.index("failed")
            raise DataError(f"Reading data failed on worker {index}: {answers[index][1]}. Its log has the traceback.")
        # worker 0    divided   divided   divided   end
        # worker 1    divided   divided   end       end      in the third step it takes part without rows
        if set(states) == {"end", "divided"} and self._without_rows is not None:
            # Shards may differ in size: a worker at its end takes part without rows until all workers are at theirs.
            return self._without_rows if batch is None else batch
        if len(set(states)) > 1:
            raise _different_ends(states)
        if state == "whole":
            check_same_batch(digest, [entry for _, entry in answers])
        elif state == "divided" and self._epoch.unsized:
            self._without_rows = _without_rows(self._strategy, batch)
        return batch


def agree_on_end(placement: Placement, batches: int) -> None:
    """Check that all workers predict the same number of batches next, or that all are at the end of their data.

    Args:
        placement: The group of workers.
        batches: The number of batches that this worker has read; 0 at the end of its data.

    Raises:
        DataError: The numbers differ.
    """
    states = placement.group.exchange("is in predict", str(batches) if batches else "end")
    if len(set(states)) > 1:
        raise _different_ends(states)


def _different_ends(states: list[str]) -> DataError:
    texts = {"end": "no more batches", **dict.fromkeys(("whole", "divided", "1"), "another batch")}
    listed = ", ".join(
        f"worker {index}: {texts.get(state, f'{state} more batches')}" for index, state in enumerate(states)
    )
    return DataError(
        f"Expected data of the same length on all workers, received in one step: {listed}. Every worker reads all of "
        "the data and takes its share of each batch: give all workers the same data."
    )


def _without_rows(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """Return a divided batch of the same structure without rows."""

    def without_rows(leaf: Any) -> Any:
        empty = slice_rows(strategy.experimental_local_results(leaf)[0], 0, 0)
        return strategy.experimental_distribute_values_from_function(lambda _: empty)

    return keras.tree.map_structure(without_rows, batch)
