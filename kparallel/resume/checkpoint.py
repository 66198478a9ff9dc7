"""Checkpoints of a training, in the middle of an epoch too, and how it goes on from the last one."""

import copy
import os
import secrets
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kparallel.checkpoint.folder import FolderWriter, clear_unfinished
from kparallel.checkpoint.writer import Writer
from kparallel.compat.training import resume_at
from kparallel.data.shards import Shards
from kparallel.errors import CheckpointError
from kparallel.launcher_pipes import report_checkpoint
from kparallel.rendezvous import to_stderr
from kparallel.resume.draw_states import draw_states
from kparallel.resume.notice import RESIZE, Notice, Preempted
from kparallel.resume.resumed_fit import resume_training
from kparallel.resume.snapshot import restore_newest, take_snapshot, weight_file_of

__all__: list[str] = []

_PROCESS = secrets.token_hex(8)  # Tells the checkpoints of this process from those of one that was started before.


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Write checkpoints while a wrapped model trains, and go on from the last one when the same script starts again.

    Use it where a training may be killed: by a failing machine, a scheduler, the end of a spot machine. A checkpoint
    holds the weights, the optimizer, the metrics of the running epoch, the seeds, and the place in the data. It is a
    folder that is there as a whole or not at all. It is written in the background from a copy: training stands still
    while the copy is made. The resumed run goes on at the very step, and ends with the numbers of an undisturbed one.

    For the order of rows this needs arrays, a `keras.utils.PyDataset`, shards (`kparallel.read_records`), or a
    `tf.data.Dataset` whose random steps have a seed. For others a line on stderr says at the start of `fit` that only
    the start of an epoch can be resumed, and checkpoints are written at the ends of epochs. A `PyDataset` with an
    `on_epoch_begin` or `on_epoch_end` of its own is read again for the epochs that are done.

    Keras's callbacks go on from what they had counted, such as the patience of `EarlyStopping`. So does a callback of
    your own that has `get_state()`, which returns what JSON can hold, and `set_state(state)`, which is called after
    its `on_train_begin`. Wherever it stands in the list, a `Checkpoint` is called after all others, so that it holds
    what they have done.

    SIGTERM is taken for a notice: the workers agree on a step, write a checkpoint there, and the program ends with
    code 75. `kparallel run -n MIN:MAX` lets the number of workers change from start to start. In a cluster the chief
    writes, and the others take what it has read, so that the directory need be in its reach alone.

    Args:
        directory: Holds the checkpoints of one `fit` and nothing else; made if it is not there. `model.load_weights`
            of plain Keras reads the file `model.weights.h5` in each.
        every_steps: Write a checkpoint after so many steps. Default: at the end of each epoch.
        every_seconds: Write one where the last is so many seconds old. Default: at the end of each epoch.
        keep: How many checkpoints stay; 2 by default.

    Raises:
        ValueError: An argument is out of range, or the directory is no local path.

    Example:
        >>> checkpoint = Checkpoint("run-7", every_steps=500)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        every_steps: int | None = None,
        every_seconds: float | None = None,
        keep: int = 2,
    ) -> None:
        super().__init__()
        for name, value in (("every_steps", every_steps), ("every_seconds", every_seconds), ("keep", keep)):
            if value is not None and not value > 0:
                raise ValueError(f"Expected {name} to be above 0, received {value!r}.")
        if "://" in str(directory):
            raise ValueError(f"Expected a path in a file system, received {directory!r}. Mount it, or copy from there.")
        self.directory = Path(directory)
        self._every_steps = every_steps
        self._every_seconds = every_seconds
        self._keep = keep
        self._writer = Writer(self.directory)
        self._notice = Notice()
        # `_epoch` and `_steps` say where training stands: so many steps of that epoch are done. `_since` counts steps
        # since the last checkpoint, across epochs.
        self._epoch = self._steps = self._resumed_steps = 0
        self._history: dict[str, Any] = {"epoch": [], "history": {}}
        self._logs: Any = None  # Of the last step: a step of the user's own may return what no metric holds.
        self._since = 0
        self._written = time.monotonic()
        self._only_epochs = self._finished = False

    @property
    def only_at_epochs(self) -> bool:
        """Whether checkpoints are written at the ends of epochs alone, but for one that a notice asks for."""
        return self._every_steps is None and self._every_seconds is None

    def on_train_begin(self, logs: Any = None) -> None:
        """Go on from the last checkpoint, if there is one."""
        runtime = getattr(self.model, "_kparallel", None)
        if runtime is None:
            raise CheckpointError(
                f"Expected a model that kparallel.wrap returned, received {self.model.name!r}. Wrap it, also for one "
                "device."
            )
        self._only_epochs = bool(runtime.epoch.only_epochs)
        if self._only_epochs:
            to_stderr(
                f"training can only be resumed at the start of an epoch, because x {runtime.epoch.only_epochs}; "
                "checkpoints are written at the ends of epochs"
            )
        # A `fit` that failed may have left a writer at work in this directory.
        self._writer.wait_for_all()
        clear_unfinished(self.directory)
        self._folders = FolderWriter(self.directory, self._keep)
        training = restore_newest(self.model, self.directory, runtime.epoch.callbacks)
        # A checkpoint of this process can only be that of another `fit`, which this one would go on with by mistake.
        if training is not None and training["finished"] and training["process"] == _PROCESS:
            raise CheckpointError(
                f"Expected a directory of its own for each fit of a script, received {self.directory}, where an "
                "earlier fit of this process keeps its checkpoints. Give each fit another directory."
            )
        if training is not None:
            self._check_order(training)
            self._resumed_steps = training["data"]["steps"]
            report_checkpoint("resumed", training["epoch"], training["data"]["steps"])
        runtime.epoch.resumed = training
        self._history = {"epoch": [], "history": {}} if training is None else training["history"]
        if training is not None:
            resume_training(self.model, training)
        # In a cluster `AgreedNotice` listens on every worker, where this callback runs on the chief alone.
        if runtime.placement.group.is_single:
            self._notice.listen()
        self._since, self._written, self._finished = 0, time.monotonic(), False
        self._weight_file = weight_file_of(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note where the data stand."""
        self._epoch, self._steps, self._resumed_steps = epoch, self._resumed_steps, 0
        order = self.model._kparallel.epoch.order
        if order is not None:
            order.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write a checkpoint if it is time, where the last one is on the disk."""
        # Keras calls this once for several steps where `steps_per_execution` is above 1.
        self._since += batch + 1 - self._steps
        self._steps, self._logs = batch + 1, logs
        self._warn_of_failure()
        reason = self._notice.reason
        if reason and not (reason == RESIZE and self._only_epochs):
            self.leave(reason)
            raise Preempted
        # A checkpoint that is still being written is not waited for here: the next step is due again.
        if self._is_due() and not self._only_epochs and not self._writer.is_busy:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a checkpoint if it is time, and after the last epoch."""
        self._history["epoch"].append(epoch)
        for name, value in _numbers(logs).items():
            self._history["history"].setdefault(name, []).append(value)
        # From here on a checkpoint says that the next epoch is to begin.
        self._epoch, self._steps, self._logs = epoch + 1, 0, None
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        self._finished = bool(last)
        each = self._only_epochs or self.only_at_epochs
        if each or last or self._is_due():
            self.save()
        if self._only_epochs and not last and self._notice.reason == RESIZE:
            self.leave(RESIZE)
            raise Preempted

    def on_train_end(self, logs: Any = None) -> None:
        """Wait until the last checkpoint is written."""
        self._notice.stop()
        self._writer.wait()
        self._warn_of_failure()
        # Where fewer epochs are asked for than are done, none begins.
        self.model.history.epoch = self.model.history.epoch or list(self._history["epoch"])
        self.model.history.history = self.model.history.history or copy.deepcopy(self._history["history"])
        resume_at(self.model, 0)

    def save(self) -> None:
        """Begin to write a checkpoint of this moment: between steps or epochs, on the chief."""
        self._writer.wait()
        self._warn_of_failure()
        runtime = self.model._kparallel
        training = {
            "epoch": self._epoch,
            # `order_seed` and `shards` are what `_check_order` compares when the training is resumed.
            "data": runtime.epoch.progress.state(self._steps, repeats=not self._only_epochs),
            "shards": runtime.placement.group.workers if isinstance(runtime.epoch.order, Shards) else None,
            "order_seed": None if runtime.epoch.order is None else runtime.epoch.order.seed,
            "history": copy.deepcopy(self._history),  # It is written while the next epoch ends.
            "finished": self._finished,
            "stopped": bool(self.model.stop_training),
            "process": _PROCESS,
            "draws": draw_states(runtime),
            "logs": _numbers(self._logs),
        }
        files = take_snapshot(self._weight_file, training, runtime.epoch.callbacks)
        # As they are now: the thread writes while these go on.
        epoch, steps, finished = self._epoch, self._steps, self._finished

        def write() -> None:
            self._folders.write(files)
            report_checkpoint("written", epoch, steps)
            # Here the call that reads all variables is traced, beside training. The first checkpoint is read without
            # it.
            if not finished:
                self._weight_file.prepare()

        self._writer.begin(write)
        self._since, self._written = 0, time.monotonic()

    def leave(self, reason: str) -> None:
        """Write a checkpoint of this moment, if the data allow it, and wait for it.

        Args:
            reason: `SIGTERM` or `RESIZE`.
        """
        if not self._only_epochs:
            self.save()
        self._writer.wait()
        self._warn_of_failure()
        outlook = "" if reason == RESIZE else "; start it again to go on"
        to_stderr(f"{reason} after step {self._steps} of epoch {self._epoch}{outlook}")

    def _check_order(self, training: dict[str, Any]) -> None:
        """Check that the workers of this start read what those that wrote a checkpoint would have read next.

        Raises:
            CheckpointError: They read other rows.
        """
        runtime = self.model._kparallel
        order, shards = runtime.epoch.order, training.get("shards")
        if shards is not None and shards != runtime.placement.group.workers and training["data"]["steps"]:
            raise CheckpointError(
                f"Expected {shards} workers, as wrote {self.directory} within an epoch, received "
                f"{runtime.placement.group.workers}: each reads a shard of its own, and another number would divide "
                "the rows of that epoch otherwise. Start as many, or train with -n MIN:MAX from the beginning."
            )
        if (training["order_seed"] is None) != (order is None):
            one, several = "in the order that Keras gives one process with a seed", "as kparallel run deals them"
            written, now = (one, several) if training["order_seed"] is None else (several, one)
            raise CheckpointError(
                f"Expected rows {written}, as those were read of which {self.directory} holds a checkpoint, received "
                f"rows {now}. Start the number of workers that wrote it, or train with -n MIN:MAX from the beginning."
            )

    def _is_due(self) -> bool:
        steps = self._every_steps is not None and self._since >= self._every_steps
        seconds = self._every_seconds is not None and time.monotonic() - self._written >= self._every_seconds
        return steps or seconds

    def _warn_of_failure(self) -> None:
        error = self._writer.failure()
        if isinstance(error, CheckpointError):  # Two trainings in one directory: neither could be resumed.
            raise error
        if error is not None:
            warnings.warn(
                f"A checkpoint could not be written to {self.directory} ({type(error).__name__}: {error}). Training "
                "goes on; earlier checkpoints are as they were.",
                stacklevel=2,
            )


def _numbers(logs: Any) -> dict[str, Any]:
    """Return what JSON can hold of logs, which may have anything in them."""
    arrays = {name: np.asarray(value) for name, value in (logs or {}).items()}
    return {name: array.tolist() for name, array in arrays.items() if array.dtype.kind in "biuf"}
