"""Callbacks in a cluster: the chief writes, all workers decide alike, and an error on one stops all.

After every hook at which a callback may stop training or fail, the workers tell one another what happened. Without
that, one worker would leave the loop while the others wait for it in the next step's reduction.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kparallel.comm.group import WorkerGroup
from kparallel.compat.layers import seed_states
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
_QUIET = (keras.callbacks.ProgbarLogger, keras.callbacks.History, *WRITERS[len(_CHECKPOINTS) :])
_STEP_HOOKS = {"begin": ("on_train_batch_begin", "on_batch_begin"), "end": ("on_train_batch_end", "on_batch_end")}


class SynchronizedCallbacks(keras.callbacks.CallbackList):  # type: ignore[misc]
    """A list of callbacks that acts as one over all workers.

    Args:
        callbacks: The user's; those that write files are left out where this worker is not the chief.
        group: How workers group.
        order: The data whose epoch must be told, or None.
        model: The wrapped model.
        read: What this worker has read.
        **params: As `keras.callbacks.CallbackList` takes them.
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
        given = list(keras.tree.flatten(callbacks)) if callbacks else []
        kept = [callback for callback in given if group.is_chief or not isinstance(callback, WRITERS)]
        self._group = group
        self._order = order
        self._read = read
        self._backup = next((c for c in given if isinstance(c, keras.callbacks.BackupAndRestore)), None)
        answers = [
            json.loads(answer)
            for answer in group.all_gather_text(json.dumps([_hooks_of(given), self._backup is not None]))
        ]
        self._loud = {hook for hooks, _ in answers for hook in hooks}
        self._follows = any(backup for _, backup in answers)
        super().__init__(kept, add_history=True, add_progbar=params.get("verbose", 0) != 0, model=model, **params)

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin, and start every worker where the chief's backup left off."""

        def begin() -> None:
            super(SynchronizedCallbacks, self).on_train_begin(logs)
            if self._backup is not None and self._group.is_chief:
                self._restore_rest(self._backup)

        self._together(begin)
        if self._follows:
            self._follow_chief()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch, in its order of rows, if the callbacks have left the workers alike."""
        if self._order is not None:
            self._order.epoch = epoch
        self._together(lambda: super(SynchronizedCallbacks, self).on_epoch_begin(epoch, logs))
        check_drift(self._group, self.model, self._read)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End an epoch; the chief writes what goes beside a backup, if the workers are still in step."""
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
        """End a step; what the callbacks see is global already."""
        self._perhaps_together("end", lambda: super(SynchronizedCallbacks, self).on_train_batch_end(batch, logs))

    def on_train_end(self, logs: Any = None) -> None:
        """End; a backup that Keras deletes takes its companion along."""

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
        """Run a hook on all workers; stop all if one stops, fail on all if one fails."""
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
        """Take the chief's epoch, weights, state, slots and order of rows."""
        model = self.model
        epoch, seed = self._group.broadcast([model._initial_epoch or 0, 0 if self._order is None else self._order.seed])
        model._initial_epoch = int(epoch) or None
        if self._order is not None:
            self._order.seed = int(seed)
        variables = [*model.variables, *(model.optimizer.variables if model.optimizer else [])]
        for variable, value in zip(variables, self._group.broadcast([v.value for v in variables]), strict=True):
            variable.assign(value)

    def _save_rest(self, backup: Any, epoch: int) -> None:
        """Write what Keras's backup leaves out: seed states and the order of rows.

        It is written before the backup, and keeps the entry of the backup before: a crash between the two
        leaves an entry for whichever backup is there.
        """
        path = _companion(backup)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = json.loads(path.read_text()) if path.is_file() else {}
        seeds = seed_states(self.model)
        states = [variable.numpy().tolist() for variable in self.model.non_trainable_variables if id(variable) in seeds]
        order = None if self._order is None else self._order.seed
        kept = {key: value for key, value in kept.items() if int(key) == epoch - 1}
        kept[str(epoch)] = {"seed_states": states, "order_seed": order}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(kept))
        partial.replace(path)

    def _restore_rest(self, backup: Any) -> None:
        path = _companion(backup)
        epoch = str(self.model._initial_epoch)
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if epoch not in kept:
            return
        seeds = seed_states(self.model)
        states = [variable for variable in self.model.non_trainable_variables if id(variable) in seeds]
        for variable, value in zip(states, kept[epoch]["seed_states"], strict=True):
            variable.assign(value)
        if self._order is not None and kept[epoch]["order_seed"] is not None:
            self._order.seed = kept[epoch]["order_seed"]


def _companion(backup: Any) -> Path:
    return Path(backup.backup_dir) / "kparallel.json"


def _hooks_of(callbacks: list[keras.callbacks.Callback]) -> list[str]:
    """Return at which ends of a step some callback may stop training or fail."""
    looking = [callback for callback in callbacks if not _is_quiet(callback)]
    return [
        when for when, names in _STEP_HOOKS.items() if any(_has_own(each, name) for each in looking for name in names)
    ]


def _is_quiet(callback: keras.callbacks.Callback) -> bool:
    each_epoch = isinstance(callback, _CHECKPOINTS) and callback.save_freq == "epoch"
    return each_epoch or isinstance(callback, _QUIET)


def _has_own(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Tell whether a callback has a hook of its own, by its class or, as `LambdaCallback`, by itself."""
    plain = getattr(keras.callbacks.Callback, hook)
    return getattr(getattr(callback, hook), "__func__", None) is not plain
