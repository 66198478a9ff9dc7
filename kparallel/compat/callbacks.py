"""Keras's `BackupAndRestore`, which writes several files that belong together."""

from collections.abc import Callable
from pathlib import Path

import keras

__all__: list[str] = []


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
