"""What a `fit` needs so that another process can go on with it."""

import inspect
import os
import random
from collections.abc import Sequence
from typing import Any

import keras

from kparallel.checkpoint.folder import FolderWriter, clear_unfinished
from kparallel.compat.callbacks import backs_up_epochs, backup_directory, keep_backups_by
from kparallel.compat.data import are_arrays, shuffles_by_epoch, split_for_validation
from kparallel.compat.epochs import has_global_seed
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import CheckpointError
from kparallel.resume.checkpoint import Checkpoint
from kparallel.resume.draw_states import draw_states
from kparallel.resume.epoch import EpochState
from kparallel.resume.progress import why_only_epochs
from kparallel.resume.resumed_fit import resume_training
from kparallel.resume.snapshot import restore_newest, take_snapshot, weight_file_of

__all__: list[str] = []

_BACKUPS = 2


def resumable_arguments(model: Any, epoch: EpochState, asked: dict[str, Any]) -> dict[str, Any]:
    """Return `fit`'s arguments on one machine, defaults left out, made ready to be resumed if a callback may do so.

    Arrays that would be shuffled without a seed get an order that is a function of a seed, which is written down, and
    the epoch. With a seed they keep Keras's order, which another process draws again, unless the number of workers may
    change: several have no common order but that of the function.

    Args:
        model: The wrapped model.
        epoch: Is told about the data.
        asked: What `fit` was given.
    """
    epoch.order, epoch.progress, epoch.resumed, epoch.follows_data, epoch.callbacks = None, None, None, False, []
    # `given` has every argument; `asked` has those that the user passed.
    defaults = defaults_of_fit(model)
    given = defaults | asked
    checkpoints = any(isinstance(callback, Checkpoint) for callback in callbacks_of(given))
    backups = keep_backups(model, epoch, given)
    # Then nothing of the data has to be known, and they keep Keras's own order.
    if not checkpoints and not backups:
        return asked
    epoch.callbacks = writers_last(callbacks_of(given))
    if isinstance(given["callbacks"], keras.callbacks.CallbackList):
        given["callbacks"].callbacks = epoch.callbacks
    else:
        given["callbacks"] = epoch.callbacks
    x, y = given["x"], given["y"]
    if isinstance(x, Shards):
        epoch.order = x
    elif checkpoints and given["shuffle"] and are_arrays(x, y, given["sample_weight"]) and not _has_common_order():
        epoch.order = order_arrays(given, random.getrandbits(31))
    describe_data(epoch, given)
    return {name: value for name, value in given.items() if name in asked or value is not defaults[name]}


def defaults_of_fit(model: Any) -> dict[str, Any]:
    """Return the defaults of a model's `fit`, which its class may have changed."""
    methods = (keras.Model.fit, model.__class__.fit)
    parameters = [each for method in methods for each in inspect.signature(method).parameters.values()]
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def order_arrays(given: dict[str, Any], seed: int) -> ShuffledArrays:
    """Put arrays of `fit`'s arguments into an order that is a function of a seed and the epoch.

    Args:
        given: The arguments, changed in place.
        seed: Of the order.
    """
    # Keras splits before it shuffles, so the split comes first.
    if given["validation_split"] and given["validation_data"] is None:
        rows = given["x"], given["y"], given["sample_weight"]
        (given["x"], given["y"], given["sample_weight"]), given["validation_data"] = split_for_validation(
            rows, given["validation_split"]
        )
    order = ShuffledArrays(given, seed)
    if given["validation_batch_size"] is None:
        given["validation_batch_size"] = given["batch_size"]
    # The new data have targets, weights and batch size in themselves, and Keras refuses them beside such data.
    taken = dict.fromkeys(("y", "sample_weight", "class_weight", "batch_size"))
    given |= {**taken, "x": order, "shuffle": False, "validation_split": 0}
    return order


def describe_data(epoch: EpochState, given: dict[str, Any]) -> None:
    """Note whether training can be resumed within an epoch, and let `fit` follow where it stands in its data."""
    epoch.only_epochs = why_only_epochs(given["x"], given["y"], given["shuffle"], given["steps_per_epoch"])
    if isinstance(given["x"], Shards) and _is_elastic():
        epoch.only_epochs = "is read in shards, one for each worker, and the number of workers may change"
    epoch.progress, epoch.resumed, epoch.follows_data = None, None, True


def _has_common_order() -> bool:
    """Return whether every process that goes on with this training draws Keras's order of arrays."""
    return shuffles_by_epoch() if _is_elastic() else has_global_seed()


def _is_elastic() -> bool:
    """Return whether `kparallel run -n MIN:MAX` has started this process."""
    return bool(os.environ.get("KPARALLEL_ELASTIC"))


def keep_backups(model: Any, epoch: EpochState, given: dict[str, Any]) -> bool:
    """Let each `BackupAndRestore` keep all that belongs together in one folder, which is whole or not there.

    Keras's own writes weights, epoch, and copies of both one after another, so that whatever ends the process in
    between leaves weights of one epoch beside the number of another.

    Args:
        model: The wrapped model.
        epoch: Knows the place in the data.
        given: The arguments of `fit`.

    Returns:
        Whether there is one.

    Raises:
        CheckpointError: There is a `Checkpoint`, too.
    """
    backups = [each for each in callbacks_of(given) if isinstance(each, keras.callbacks.BackupAndRestore)]
    if backups and any(isinstance(each, Checkpoint) for each in callbacks_of(given)):
        raise CheckpointError(
            "Expected one callback that resumes training, received Checkpoint and BackupAndRestore, which would go on "
            "from two places. Leave out BackupAndRestore: a Checkpoint resumes at the very step."
        )
    for backup in backups:
        _keep(model, epoch, backup)
    return bool(backups)


def callbacks_of(given: dict[str, Any]) -> list[Any]:
    """Return the callbacks of `fit`'s arguments."""
    callbacks = given["callbacks"]
    callbacks = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    return list(keras.tree.flatten(callbacks)) if callbacks else []


def writers_last(callbacks: Sequence[Any]) -> list[Any]:
    """Return callbacks in the order in which they are called: those that a training resumes from come last.

    A checkpoint then holds what all others have done at the same step or epoch: one written before
    `ReduceLROnPlateau` has lowered the rate would resume with the old one. And what is restored is not changed by what
    others do when training begins.
    """
    return sorted(callbacks, key=lambda each: isinstance(each, Checkpoint | keras.callbacks.BackupAndRestore))


def _keep(model: Any, epoch: EpochState, backup: keras.callbacks.BackupAndRestore) -> None:
    directory, weight_file = backup_directory(backup), weight_file_of(model)
    folders = FolderWriter(directory, _BACKUPS)

    def save(number: int) -> None:
        # Between epochs the place in the data is known. Within one, Keras's backup goes back to the epoch's start.
        progress, place = epoch.progress, None
        if backs_up_epochs(backup) and progress is not None:
            # Over a pass that goes on from epoch to epoch, Keras begins the data anew.
            # `repeats` says that the resumed run has to read what came before, to be at the same place.
            place = progress.state(0, repeats=not epoch.only_epochs and not progress.goes_on)
        seed = None if epoch.order is None else epoch.order.seed
        draws = draw_states(model._kparallel)
        training = {"epoch": number, "data": place, "order_seed": seed, "draws": draws}
        folders.write(take_snapshot(weight_file, training, epoch.callbacks))

    def load() -> bool:
        clear_unfinished(directory)
        training = restore_newest(model, directory, epoch.callbacks)
        if training is None:
            return False
        epoch.resumed = training
        resume_training(model, training)
        return True

    keep_backups_by(backup, save, load)
