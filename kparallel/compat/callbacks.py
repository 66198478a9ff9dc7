"""Keras's `BackupAndRestore`, which writes several files that belong together, and what other callbacks count."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

__all__: list[str] = []

# What a callback carries from one step or epoch to the next, and begins anew at the begin of each `fit`.
_MONITORED = ("best", "_batches_seen_since_last_saving", "_last_batch_seen")
_COUNTED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: _MONITORED,
    keras.callbacks.OrbaxCheckpoint: (*_MONITORED, "_total_batches_seen"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
}


def keep_backups_by(
    backup: keras.callbacks.BackupAndRestore, save: Callable[[int], None], load: Callable[[], bool]
) -> None:
    """Let a callback save and load by other functions, when it would by its own.

    Args:
        backup: The callback.
        save: Writes a backup; is given the epoch that is to be trained next after it.
        load: Restores the last backup, and returns whether there was one.
    """
    own = type(backup)._load_model

    def load_or_own() -> None:
        if not load():
            own(backup)  # One that plain Keras wrote.

    backup._save_model = lambda: save(backup._current_epoch)
    backup._load_model = load_or_own


def backup_directory(backup: keras.callbacks.BackupAndRestore) -> Path:
    """Return where a callback keeps its backup."""
    return Path(backup.backup_dir)


def backs_up_epochs(backup: keras.callbacks.BackupAndRestore) -> bool:
    """Return whether a callback saves at the ends of epochs, rather than every so many batches."""
    return bool(backup.save_freq == "epoch")


def counted(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return what one of Keras's callbacks has counted so far: numbers, truth values and None; empty for others."""
    # Some are not there before the first `fit`.
    values = {name: getattr(callback, name) for name in _counted_names(callback) if hasattr(callback, name)}
    # A value of the logs may be one of NumPy's.
    return {name: None if value is None else np.asarray(value).tolist() for name, value in values.items()}


def set_counted(callback: keras.callbacks.Callback, values: dict[str, Any]) -> None:
    """Let one of Keras's callbacks go on with what `counted` returned of another of its class."""
    for name in _counted_names(callback):
        if name in values:
            setattr(callback, name, values[name])


def best_weights(callback: keras.callbacks.Callback) -> list[Any]:
    """Return the weights that `EarlyStopping` keeps to restore, as `get_weights` has them; none for others."""
    return list(getattr(callback, "best_weights", None) or ()) if _counted_names(callback) else []


def set_best_weights(callback: keras.callbacks.Callback, weights: Sequence[Any]) -> None:
    """Let `EarlyStopping` restore weights that `best_weights` returned."""
    callback.best_weights = list(weights)


def _counted_names(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    return next((names for kind, names in _COUNTED.items() if isinstance(callback, kind)), ())
