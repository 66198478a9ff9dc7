"""What `fit`, `evaluate` and `predict` need in a cluster before Keras's loops start."""

import inspect
import json
import random
from typing import Any

import keras

from kparallel.comm.group import WorkerGroup
from kparallel.compat.data import are_arrays, shuffles_by_epoch, split_for_validation
from kparallel.data.cardinality import steps_of, training_length, validation_length
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import DataError
from kparallel.workers.callbacks import SynchronizedCallbacks
from kparallel.workers.consistency import fit_fingerprint, require_same
from kparallel.workers.epoch import EpochState

__all__: list[str] = []


def fit_arguments(model: Any, group: WorkerGroup, epoch: EpochState, asked: dict[str, Any]) -> dict[str, Any]:
    """Return `fit`'s arguments as every worker must use them, defaults left out.

    Arrays that are to be shuffled get an order that is a function of an agreed seed and the epoch. Callbacks
    become a list that acts as one over all workers. Only the chief shows progress, unless `verbose` is given.

    Raises:
        DataError: Workers hold data of different sizes.
        WorkerError: Workers were asked for different epochs, validations, losses or optimizers.
    """
    defaults = _defaults(keras.Model.fit) | _defaults(model.__class__.fit)
    given = defaults | asked
    require_same(group, fit_fingerprint(model, given))
    if given["verbose"] == "auto":
        given["verbose"] = 1 if group.is_chief else 0
    x = given["x"]
    order = _order_rows(given, group)
    if isinstance(x, keras.utils.PyDataset) and given["shuffle"]:
        _share_random_state(group)
    _agree_on_size(group, given, x)
    epoch.unsized = None in (training_length(given), validation_length(given))
    callbacks = given["callbacks"]
    callbacks = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    options = {"verbose": given["verbose"], "epochs": given["epochs"], "steps": steps_of(given)}
    given["callbacks"] = SynchronizedCallbacks(callbacks, group, order, model, epoch.digest, **options)
    return {name: value for name, value in given.items() if name in asked or value is not defaults[name]}


def _defaults(method: Any) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _order_rows(given: dict[str, Any], group: WorkerGroup) -> ShuffledArrays | Shards | None:
    x = given["x"]
    if isinstance(x, Shards):
        return x
    if not given["shuffle"] or not are_arrays(x, given["y"], given["sample_weight"]):
        return None
    if shuffles_by_epoch():  # Then all workers, and plain Keras, get one order anyway.
        return None
    if given["validation_split"] and given["validation_data"] is None:
        rows = x, given["y"], given["sample_weight"]
        (given["x"], given["y"], given["sample_weight"]), given["validation_data"] = split_for_validation(
            rows, given["validation_split"]
        )
    order = ShuffledArrays(given, int(group.broadcast([random.getrandbits(31)])[0]))
    if given["validation_batch_size"] is None:
        given["validation_batch_size"] = given["batch_size"]
    taken = dict.fromkeys(("y", "sample_weight", "class_weight", "batch_size"))
    given |= {**taken, "x": order, "shuffle": False, "validation_split": 0}
    return order


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
