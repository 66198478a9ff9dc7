"""What `fit`, `evaluate` and `predict` need in a cluster before Keras's loops start."""

import json
import random
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.group import WorkerGroup
from kparallel.compat.data import are_arrays
from kparallel.data.cardinality import steps_of, training_length, validation_length
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import DataError
from kparallel.model.place import rejoin
from kparallel.model.resumable import defaults_of_fit, describe_data, keep_backups, order_arrays
from kparallel.model.runtime import Runtime
from kparallel.workers.callbacks import SynchronizedCallbacks
from kparallel.workers.consistency import fit_fingerprint, require_same
from kparallel.workers.drift import check_same_batch

__all__: list[str] = []


def fit_arguments(model: Any, group: WorkerGroup, runtime: Runtime, asked: dict[str, Any]) -> dict[str, Any]:
    """Return `fit`'s arguments as every worker must use them, defaults left out.

    Arrays that are to be shuffled get an order that is a function of an agreed seed and the epoch. Callbacks
    become a list that acts as one over all workers. Only the chief shows progress, unless `verbose` is given.

    Raises:
        DataError: Workers hold data of different sizes.
        WorkerError: Workers were asked for different epochs, validations, losses or optimizers.
    """
    defaults = defaults_of_fit(model)
    given = defaults | asked
    rejoin(runtime.placement)
    require_same(group, fit_fingerprint(model, given))
    if given["verbose"] == "auto":
        given["verbose"] = 1 if group.is_chief else 0
    x = given["x"]
    order = runtime.order = _order_rows(given, group)
    keep_backups(model, runtime, given)
    describe_data(runtime, given)
    if isinstance(x, keras.utils.PyDataset) and given["shuffle"]:
        _share_random_state(group)
    _agree_on_size(group, given, x)
    runtime.unsized = None in (training_length(given), validation_length(given))
    callbacks = given["callbacks"]
    callbacks = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    options = {"verbose": given["verbose"], "epochs": given["epochs"], "steps": steps_of(given)}
    agreed = given["callbacks"] = SynchronizedCallbacks(callbacks, group, order, model, runtime, **options)
    runtime.follows_data = agreed.follows
    return {name: value for name, value in given.items() if name in asked or value is not defaults[name]}


class Fetch:
    """Fetches batches for the step; in a cluster it checks that all workers do the same.

    Args:
        runtime: Tells whether there is a cluster and whether the data's size is known, and notes what is read.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._iterator: Any = None
        self._last: Any = None

    def __call__(self, iterator: Any) -> Any:
        """Return the next batch, or None at the data's end."""
        group, begins = self._runtime.placement.group, iterator is not self._iterator
        if group is None:
            return next(iterator, None)
        self._iterator = iterator
        try:
            batch = next(iterator, None)
        except Exception as error:
            if begins or self._runtime.unsized:
                group.all_gather_text(json.dumps(["failed", f"{type(error).__name__}: {error}"]))
            else:
                self._runtime.placement.abort()  # The others wait for this worker inside the step.
            raise
        divided = any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in keras.tree.flatten(batch))
        state = "end" if batch is None else "divided" if divided else "whole"
        if state == "whole":
            self._runtime.read.add(batch)
        return self._agreed(group, state, batch) if begins or self._runtime.unsized else batch

    def _agreed(self, group: WorkerGroup, state: str, batch: Any) -> Any:
        """Return the batch to go on with, after the workers have told one another what they have."""
        answers = [json.loads(answer) for answer in group.all_gather_text(json.dumps([state, str(self._runtime.read)]))]
        states = [told for told, _ in answers]
        if "failed" in states:
            index = states.index("failed")
            raise DataError(f"Reading data failed on worker {index}: {answers[index][1]}. Its log has the traceback.")
        if set(states) == {"end", "divided"} and self._last is not None:
            # Shards need not be equal: a worker at its end goes on with no rows until all are.
            return self._last if batch is None else batch
        if len(set(states)) > 1:
            raise _ends_apart(states)
        if state == "whole":
            check_same_batch(self._runtime.read, [digest for _, digest in answers])
        elif state == "divided" and self._runtime.unsized:
            self._last = _without_rows(self._runtime.strategy, batch)
        return batch


def agree_on_end(group: WorkerGroup, batches: int) -> None:
    """Make sure that all workers predict as many batches next, or all are at their data's end.

    Raises:
        DataError: Some are at their end, others not.
    """
    told = group.all_gather_text(str(batches) if batches else "end")
    if len(set(told)) > 1:
        raise _ends_apart(told)


def _ends_apart(states: list[str]) -> DataError:
    return DataError(
        f"Expected data of the same length on all workers, received in one step: {_listed(states)}. Every worker reads "
        "all of the data and takes its share of each batch: give all workers the same data."
    )


def _listed(states: list[str]) -> str:
    words = {"end": "no more batches", **dict.fromkeys(("whole", "divided", "1"), "another batch")}
    return ", ".join(
        f"worker {index}: {words.get(state, f'{state} more batches')}" for index, state in enumerate(states)
    )


def _without_rows(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """Return a divided batch of the same structure without rows."""

    def one(leaf: Any) -> Any:
        empty = strategy.experimental_local_results(leaf)[0][:0]
        return strategy.experimental_distribute_values_from_function(lambda _: empty)

    return keras.tree.map_structure(one, batch)


def _order_rows(given: dict[str, Any], group: WorkerGroup) -> ShuffledArrays | Shards | None:
    x = given["x"]
    if isinstance(x, Shards):
        return x
    if not given["shuffle"] or not are_arrays(x, given["y"], given["sample_weight"]):
        return None
    return order_arrays(given, int(group.broadcast([random.getrandbits(31)])[0]))


def _share_random_state(group: WorkerGroup) -> None:
    """Take the chief's state of Python's generator, by which Keras shuffles the batches of a `PyDataset`."""
    version, numbers, gauss = json.loads(
        group.all_gather_text(json.dumps(random.getstate() if group.is_chief else None))[0]
    )
    random.setstate((version, tuple(numbers), gauss))


def _agree_on_size(group: WorkerGroup, given: dict[str, Any], x: Any) -> None:
    sizes = {
        "steps for each epoch": steps_of(given),
        "rows": keras.tree.flatten(x)[0].shape[0] if are_arrays(x) else None,
        "batches": training_length(given),
        "validation steps": given["validation_steps"],
        "validation batches": validation_length(given),
    }
    answers = [json.loads(answer) for answer in group.all_gather_text(json.dumps(sizes))]
    for what in sizes:
        numbers = [answer[what] for answer in answers]
        if len(set(numbers)) > 1:
            raise DataError(
                f"Expected the same number of {what} on all workers, received {numbers}. Every worker reads all of the "
                "data and takes its share of each batch: give all the same, or deal shards with kparallel.read_records."
            )
