"""Makes the arguments of `fit` the same on every worker before Keras's loop starts."""

import random
from typing import Any

import keras

from kparallel.comm.group import WorkerGroup
from kparallel.compat.data import are_arrays, shuffles_by_epoch
from kparallel.data.cardinality import steps_of, training_length, validation_length
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import DataError
from kparallel.resume.epoch import EpochState
from kparallel.resume.resumable import defaults_of_fit, describe_data, keep_backups, order_arrays
from kparallel.workers.callbacks import SynchronizedCallbacks
from kparallel.workers.consistency import fit_fingerprint, require_same

__all__: list[str] = []


def fit_arguments(model: Any, group: WorkerGroup, epoch: EpochState, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fit` for every worker, without those that have their default.

    The rows of shuffled arrays get an order that is a function of a common seed and the epoch. The callbacks become one
    synchronized list. Only the chief shows progress, unless `verbose` is passed.

    Args:
        model: The wrapped model.
        group: The workers.
        epoch: The state of reading; `unsized` is set.
        asked: The arguments that the user passed.

    Raises:
        DataError: The sizes of the workers' data differ.
        WorkerError: The epochs, validations, losses or optimizers of the workers differ.
    """
    defaults = defaults_of_fit(model)
    arguments = defaults | asked
    require_same(group, fit_fingerprint(model, arguments))
    if arguments["verbose"] == "auto":
        arguments["verbose"] = 1 if group.is_chief else 0
    x = arguments["x"]
    # In this order: each line below reads what the ones above have settled, and each exchange is made by all workers.
    order = epoch.order = _order_rows(arguments, group)
    keep_backups(model, epoch, arguments)
    describe_data(epoch, arguments)
    if isinstance(x, keras.utils.PyDataset) and arguments["shuffle"]:
        _share_random_state(group)
    _agree_on_size(group, arguments, x)
    # An unknown number of batches, of training or validation, makes the workers exchange their state at each batch.
    epoch.unsized = None in (training_length(arguments), validation_length(arguments))
    callbacks = arguments["callbacks"]
    callbacks = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    options = {"verbose": arguments["verbose"], "epochs": arguments["epochs"], "steps": steps_of(arguments)}
    synchronized = SynchronizedCallbacks(callbacks, group, order, model, epoch, model._kparallel.shared_out, **options)
    arguments["callbacks"], epoch.follows_data = synchronized, synchronized.follows
    return {name: value for name, value in arguments.items() if name in asked or value is not defaults[name]}


def _order_rows(arguments: dict[str, Any], group: WorkerGroup) -> ShuffledArrays | Shards | None:
    """Replace shuffled arrays by `ShuffledArrays`; return the data whose order depends on the epoch, or None."""
    x = arguments["x"]
    if isinstance(x, Shards):
        return x
    if not arguments["shuffle"] or not are_arrays(x, arguments["y"], arguments["sample_weight"]):
        return None
    if shuffles_by_epoch():  # Then all workers, and plain Keras, get one order anyway.
        return None
    return order_arrays(arguments, int(group.broadcast([random.getrandbits(31)])[0]))


def _share_random_state(group: WorkerGroup) -> None:
    """Set the state of Python's generator to the chief's: Keras shuffles the batches of a `PyDataset` with it."""
    state = random.getstate() if group.is_chief else None
    version, numbers, gauss = group.exchange("shuffles the batches of a PyDataset", state)[0]
    random.setstate((version, tuple(numbers), gauss))


def _agree_on_size(group: WorkerGroup, arguments: dict[str, Any], x: Any) -> None:
    """Check that the workers' data have the same size; else one worker would wait for the others at the end."""
    sizes = {
        "steps for each epoch": steps_of(arguments),
        "rows": keras.tree.flatten(x)[0].shape[0] if are_arrays(x) else None,
        "batches": training_length(arguments),
        "validation steps": arguments["validation_steps"],
        "validation batches": validation_length(arguments),
    }
    answers = group.exchange("counts the data of fit", sizes)
    for what in sizes:
        numbers = [answer[what] for answer in answers]
        if len(set(numbers)) > 1:
            raise DataError(
                f"Expected the same number of {what} on all workers, received {numbers}. Every worker reads all of the "
                "data and takes its share of each batch: give all the same, or deal shards with kparallel.read_records."
            )
