"""What `fit`, `evaluate` and `predict` need in a cluster before Keras's loops start."""

import inspect
import json
import random
from typing import Any

import keras
import tensorflow as tf

from kparallel.collective.talk import Talk
from kparallel.data.order import EpochOrder
from kparallel.data.shards import Shards
from kparallel.errors import DataError
from kparallel.model.agreement import AgreedCallbacks
from kparallel.model.in_step import Read, check_same_batches
from kparallel.model.runtime import Runtime
from kparallel.model.sameness import check_same, facts_of_fit
from kparallel.model.size import steps_of, validation_steps_of
from kparallel.private import are_arrays, split_for_validation

__all__: list[str] = []


def cluster_fit_arguments(model: Any, talk: Talk, read: Read, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return `fit`'s arguments as every worker must use them.

    Arrays that are to be shuffled get an order that is a function of an agreed seed and the epoch. Callbacks
    become a list that acts as one over all workers. Only the chief shows progress, unless `verbose` is given.

    Raises:
        DataError: Workers hold data of different sizes.
        WorkerError: Workers were asked for different epochs, validations, losses or optimizers.
    """
    bound = inspect.signature(keras.Model.fit).bind(model, **kwargs)
    asked = bound.arguments.get("verbose", "auto")
    bound.apply_defaults()
    given = dict(bound.arguments)
    given.pop("self")
    check_same(talk, facts_of_fit(model, given))
    given["verbose"] = (1 if talk.is_chief else 0) if asked == "auto" else asked
    x = given["x"]
    order = _order_rows(given, talk)
    steps = steps_of(given)
    _agree_on_size(talk, given, x)
    if not isinstance(given["callbacks"], keras.callbacks.CallbackList):
        given["callbacks"] = AgreedCallbacks(
            given["callbacks"], talk, order, model, read, verbose=given["verbose"], epochs=given["epochs"], steps=steps
        )
    return given


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
        batch = next(iterator, None)
        talk = self._runtime.layout.talk
        if talk is None:
            return batch
        if self._runtime.unsized:
            divided = any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in keras.tree.flatten(batch))
            ended = talk.gather("" if batch is None else "divided" if divided else "whole")
            if set(ended) == {"", "divided"} and self._last is not None:
                # Shards need not be equal: a worker at its end goes on with no rows until all are.
                return self._last if batch is None else batch
            if len(set(ended)) > 1:
                raise _ends_apart(ended, "steps_per_epoch")
            if divided:
                self._last = _without_rows(self._runtime.strategy, batch)
                return batch
        if batch is not None:
            self._runtime.read.add(batch)
            if iterator is not self._iterator:
                self._iterator = iterator
                check_same_batches(talk, self._runtime.read)
        return batch


def agree_on_end(talk: Talk, ended: bool) -> None:
    """Make sure that all workers predict another batch, or all are at their data's end.

    Raises:
        DataError: Some are at their end, others not.
    """
    words = talk.gather("" if ended else "whole")
    if len(set(words)) > 1:
        raise _ends_apart(words, "steps")


def _ends_apart(words: list[str], option: str) -> DataError:
    going = next(index for index, word in enumerate(words) if word)
    return DataError(
        f"Expected data of the same length on all workers, but worker {words.index('')} is at its end and "
        f"worker {going} is not. Give all workers the same data, or pass {option}."
    )


def _without_rows(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """Return a divided batch of the same structure without rows."""

    def one(leaf: Any) -> Any:
        empty = strategy.experimental_local_results(leaf)[0][:0]
        return strategy.experimental_distribute_values_from_function(lambda _: empty)

    return keras.tree.map_structure(one, batch)


def _order_rows(given: dict[str, Any], talk: Talk) -> EpochOrder | Shards | None:
    x = given["x"]
    if isinstance(x, Shards):
        return x
    if not given["shuffle"] or not are_arrays(x, given["y"], given["sample_weight"]):
        return None
    if given["validation_split"] and given["validation_data"] is None:
        rows = x, given["y"], given["sample_weight"]
        (given["x"], given["y"], given["sample_weight"]), given["validation_data"] = split_for_validation(
            rows, given["validation_split"]
        )
    order = EpochOrder(given, int(talk.from_chief([random.getrandbits(31)])[0]))
    if given["validation_batch_size"] is None:
        given["validation_batch_size"] = given["batch_size"]
    taken = dict.fromkeys(("y", "sample_weight", "class_weight", "batch_size"))
    given |= {**taken, "x": order, "shuffle": False, "validation_split": 0}
    return order


def _agree_on_size(talk: Talk, given: dict[str, Any], x: Any) -> None:
    rows = keras.tree.flatten(x)[0].shape[0] if are_arrays(x) else None
    own = [steps_of(given), rows, validation_steps_of(given)]
    sizes, counts, validations = zip(*map(json.loads, talk.gather(json.dumps(own))), strict=True)
    if len(set(sizes)) > 1:
        raise DataError(
            f"Expected the same number of steps for each epoch on all workers, received {list(sizes)}. Every worker "
            "reads the whole dataset and takes its share of each batch: give all the same data, or steps_per_epoch."
        )
    if len(set(counts)) > 1:
        raise DataError(
            f"Expected the same number of rows on all workers, received {list(counts)}. Every worker reads all rows "
            "and takes its share of each batch; give all the same data, or deal shards with kparallel.read_records."
        )
    if len(set(validations)) > 1:
        raise DataError(
            f"Expected the same number of validation steps on all workers, received {list(validations)}. Every worker "
            "reads all of validation_data and takes its share of each batch: give all the same, or validation_steps."
        )
