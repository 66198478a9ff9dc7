"""Callbacks in a cluster: only the chief writes files, all workers stop together, and an error on one stops all.

After every hook at which a callback may stop training or fail, the workers exchange their status. Otherwise one worker
would leave the loop while the others wait for it in the next step's all-reduce.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kparallel.comm.group import WorkerGroup
from kparallel.compat.layers import seed_states
from kparallel.compat.training import resume_at, resumed_epoch
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import WorkerError
from kparallel.workers.drift import BatchDigest, check_drift

__all__: list[str] = []

_CHECKPOINTS = (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
WRITERS = (
    *_CHECKPOINTS,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.TensorBoard,
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
)
# Callbacks of Keras's that neither stop training nor fail at the ends of a step.
_QUIET = (keras.callbacks.ProgbarLogger, keras.callbacks.History, *WRITERS[len(_CHECKPOINTS) :])
_STEP_HOOKS = {"begin": ("on_train_batch_begin", "on_batch_begin"), "end": ("on_train_batch_end", "on_batch_end")}


class SynchronizedCallbacks(keras.callbacks.CallbackList):  # type: ignore[misc]
    """A callback list that acts as one list over all workers.

    Args:
        callbacks: The user's callbacks. Those that are the chief's alone are left out on all other workers.
        group: The workers.
        order: The data whose order depends on the epoch, or None.
        model: The wrapped model.
        read: The digest of what this worker has read.
        **params: The arguments of `keras.callbacks.CallbackList`.
    """

    def __init__(
        self,
        callbacks: Any,
        group: WorkerGroup,
        order: ShuffledArrays | Shards | None,
        model: Any,
        read: BatchDigest,
        **params: Any,
    ) -> None:
        all_callbacks = list(keras.tree.flatten(callbacks)) if callbacks else []
        own_callbacks = [callback for callback in all_callbacks if group.is_chief or not is_chief_only(callback)]
        self._group = group
        self._order = order
        self._read = read
        self._backup = next((c for c in all_callbacks if isinstance(c, keras.callbacks.BackupAndRestore)), None)
        # Whether a hook is synchronized has to be the same on every worker, and callbacks may differ between workers.
        answers = [
            json.loads(answer)
            for answer in group.all_gather_text(json.dumps([_hooks_of(all_callbacks), self._backup is not None]))
        ]
        self._loud = {hook for hooks, _ in answers for hook in hooks}
        self._follows = any(backup for _, backup in answers)
        super().__init__(
            own_callbacks, add_history=True, add_progbar=params.get("verbose", 0) != 0, model=model, **params
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin training on every worker at the epoch and with the values of the chief's backup."""

        def begin() -> None:
            super(SynchronizedCallbacks, self).on_train_begin(logs)
            if self._backup is not None and self._group.is_chief:
                self._restore_rest(self._backup)

        self._together(begin)
        if self._follows:
            self._follow_chief()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch and set its order of rows; check afterwards that the workers are still alike."""
        if self._order is not None:
            self._order.epoch = epoch
        self._together(lambda: super(SynchronizedCallbacks, self).on_epoch_begin(epoch, logs))
        check_drift(self._group, self.model, self._read)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End an epoch, if the workers are still alike. The chief also writes the companion file of a backup."""
        check_drift(self._group, self.model, self._read)

        def end() -> None:
            if self._backup is not None and self._group.is_chief:
                self._save_rest(self._backup, epoch + 1)
            super(SynchronizedCallbacks, self).on_epoch_end(epoch, logs)

        self._together(end)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin a step."""
        self._perhaps_together("begin", lambda: super(SynchronizedCallbacks, self).on_train_batch_begin(batch, logs))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a step. The logs hold global values already."""
        self._perhaps_together("end", lambda: super(SynchronizedCallbacks, self).on_train_batch_end(batch, logs))

    def on_train_end(self, logs: Any = None) -> None:
        """End training; the companion file of a backup is deleted with it."""

        def end() -> None:
            if self._backup is not None and self._group.is_chief and self._backup.delete_checkpoint:
                _companion(self._backup).unlink(missing_ok=True)
            super(SynchronizedCallbacks, self).on_train_end(logs)

        self._together(end)

    def _perhaps_together(self, when: str, hook: Callable[[], None]) -> None:
        if when in self._loud:
            self._together(hook)
        else:
            hook()

    def _together(self, hook: Callable[[], None]) -> None:
        """Run a hook on all workers. All stop if one stops, and all raise if one raises."""
        error: Exception | None = None
        try:
            hook()
        except Exception as caught:
            error = caught
        status = {"error": f"{type(error).__name__}: {error}" if error else "", "stop": bool(self.model.stop_training)}
        answers = [json.loads(answer) for answer in self._group.all_gather_text(json.dumps(status))]
        if error is not None:
            raise error
        failed = [(index, answer["error"]) for index, answer in enumerate(answers) if answer["error"]]
        if failed:
            raise WorkerError(
                f"A callback failed on worker {failed[0][0]}: {failed[0][1]}. All workers stop; "
                "that worker's log has the traceback."
            )
        if any(answer["stop"] for answer in answers):
            self.model.stop_training = True

    def _follow_chief(self) -> None:
        """Copy the chief's epoch, weights, state, optimizer slots and order of rows to every worker."""
        model = self.model
        epoch, seed = self._group.broadcast([resumed_epoch(model) or 0, 0 if self._order is None else self._order.seed])
        resume_at(model, int(epoch))
        if self._order is not None:
            self._order.seed = int(seed)
        variables = [*model.variables, *(model.optimizer.variables if model.optimizer else [])]
        for variable, value in zip(variables, self._group.broadcast([v.value for v in variables]), strict=True):
            variable.assign(value)

    def _save_rest(self, backup: Any, epoch: int) -> None:
        """Write the companion file of a backup: seed states and the order of rows, which Keras's backup leaves out.

        The file is written before the backup, and keeps the entry of the previous backup. So after a crash between the
        two writes it has an entry for whichever backup exists.
        """
        path = _companion(backup)
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = json.loads(path.read_text()) if path.is_file() else {}
        seeds = seed_states(self.model)
        states = [variable.numpy().tolist() for variable in self.model.non_trainable_variables if id(variable) in seeds]
        order = None if self._order is None else self._order.seed
        entries = {key: value for key, value in entries.items() if int(key) == epoch - 1}
        entries[str(epoch)] = {"seed_states": states, "order_seed": order}
        partial = path.with_suffix(".partial")  # Renamed at the end, so that a crash leaves no half-written file.
        partial.write_text(json.dumps(entries))
        partial.replace(path)

    def _restore_rest(self, backup: Any) -> None:
        path = _companion(backup)
        epoch = str(resumed_epoch(self.model))
        entries = json.loads(path.read_text()) if path.is_file() else {}
        if epoch not in entries:
            return
        seeds = seed_states(self.model)
        states = [variable for variable in self.model.non_trainable_variables if id(variable) in seeds]
        for variable, value in zip(states, entries[epoch]["seed_states"], strict=True):
            variable.assign(value)
        if self._order is not None and entries[epoch]["order_seed"] is not None:
            self._order.seed = entries[epoch]["order_seed"]


def is_chief_only(callback: keras.callbacks.Callback) -> bool:
    """Tell whether a callback runs on the chief alone: by its attribute `chief_only`, or as a writer of Keras's."""
    return bool(getattr(callback, "chief_only", isinstance(callback, WRITERS)))


def _companion(backup: Any) -> Path:
    return Path(backup.backup_dir) / "kparallel.json"


def _hooks_of(callbacks: list[keras.callbacks.Callback]) -> list[str]:
    """Return the ends of a step (`"begin"`, `"end"`) at which a callback may stop training or fail."""
    active = [callback for callback in callbacks if not _is_quiet(callback)]
    return [
        when for when, names in _STEP_HOOKS.items() if any(_has_own(each, name) for each in active for name in names)
    ]


def _is_quiet(callback: keras.callbacks.Callback) -> bool:
    each_epoch = isinstance(callback, _CHECKPOINTS) and callback.save_freq == "epoch"
    return each_epoch or isinstance(callback, _QUIET)


def _has_own(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Return whether a callback overrides a hook, in its class or, as `LambdaCallback` does, on the object."""
    plain = getattr(keras.callbacks.Callback, hook)
    return getattr(getattr(callback, hook), "__func__", None) is not plain
