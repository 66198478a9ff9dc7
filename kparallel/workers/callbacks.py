"""Callbacks in a cluster: only the chief writes files, all workers stop together, and an error on one stops all.

After every hook at which a callback may stop training or fail, the workers exchange their status. Otherwise one worker
would leave the loop while the others wait for it in the next step's all-reduce.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.group import WorkerGroup
from kparallel.compat.training import resume_at, resumed_epoch
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import WorkerError
from kparallel.model_variables import variables_of
from kparallel.resume.callback_states import callback_states, restore_callbacks
from kparallel.resume.checkpoint import Checkpoint
from kparallel.resume.epoch import EpochState
from kparallel.resume.notice import RESIZE, Preempted
from kparallel.resume.resumable import writers_last
from kparallel.resume.resumed_fit import resume_training
from kparallel.workers.agreed_notice import AgreedNotice
from kparallel.workers.drift import check_drift
from kparallel.workers.variables import VariablesOfWorkers

__all__: list[str] = []

_CHECKPOINTS = (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
# Keras's callbacks that write: on every worker they would write the same files.
WRITERS = (
    *_CHECKPOINTS,
    keras.callbacks.BackupAndRestore,
    Checkpoint,
    keras.callbacks.TensorBoard,
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
)
# Callbacks of Keras's that neither stop training nor fail at the ends of a step.
_QUIET = (keras.callbacks.ProgbarLogger, keras.callbacks.History, *WRITERS[len(_CHECKPOINTS) :])
_STEP_HOOKS = {"begin": ("on_train_batch_begin", "on_batch_begin"), "end": ("on_train_batch_end", "on_batch_end")}
# Where a callback such as `SwapEMAWeights` reads and writes weights and slots around a validation.
_TEST_HOOKS = {"test_begin": ("on_test_begin",), "test_end": ("on_test_end",)}


class SynchronizedCallbacks(keras.callbacks.CallbackList):  # type: ignore[misc]
    """A callback list that acts as one list over all workers.

    Args:
        callbacks: The user's callbacks. Those that are the chief's alone are left out on all other workers.
        group: The workers.
        order: The data whose order depends on the epoch, or None.
        model: The wrapped model.
        epoch: What is known of the data, and of a checkpoint that was read.
        shared_out: What the workers share out, slots and perhaps weights; default None.
        **params: The arguments of `keras.callbacks.CallbackList`.
    """

    def __init__(
        self,
        callbacks: Any,
        group: WorkerGroup,
        order: ShuffledArrays | Shards | None,
        model: Any,
        epoch: EpochState,
        shared_out: VariablesOfWorkers | None = None,
        **params: Any,
    ) -> None:
        all_callbacks = list(keras.tree.flatten(callbacks)) if callbacks else []
        # All callbacks are flattened before any is left out: what has to be equal on all workers is decided by what
        # the user passed, not by what is left here.
        own_callbacks = [each for each in writers_last(all_callbacks) if group.is_chief or not is_chief_only(each)]
        self._group = group
        self._order = order
        self._epoch_state = epoch
        epoch.callbacks = own_callbacks
        self._shared_out = shared_out
        self._checkpoint = next((each for each in all_callbacks if isinstance(each, Checkpoint)), None)
        restores = any(isinstance(each, Checkpoint | keras.callbacks.BackupAndRestore) for each in all_callbacks)
        status = [_hooks_of(all_callbacks, shared_out is not None), restores, self._checkpoint is not None]
        # Whether a hook is synchronized has to be the same on every worker, and callbacks may differ between workers.
        answers = group.exchange("makes the callbacks of fit", status)
        # If one worker has a callback that may stop at the end of a step, all of them exchange their status there.
        self._synchronized_hooks = {hook for hooks, *_ in answers for hook in hooks}
        self.follows = any(restores for _, restores, _ in answers)
        self._notice = AgreedNotice(group) if any(checkpoints for *_, checkpoints in answers) else None
        super().__init__(
            own_callbacks, add_history=True, add_progbar=params.get("verbose", 0) != 0, model=model, **params
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin, and start every worker where the chief's checkpoint was written."""
        if self.follows and self._shared_out is not None:
            self._shared_out.gather_if_apart()  # What is read is assigned on every worker.
        self._together(lambda: super(SynchronizedCallbacks, self).on_train_begin(logs))
        # Every worker reads the checkpoint's place and values from the chief: only the chief has read the file.
        if self.follows:
            self._follow_chief()
        if self._notice is not None:
            self._notice.listen()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch and set its order of rows; check afterwards that the workers are still alike."""
        if self._order is not None:
            self._order.epoch = epoch
        self._together(lambda: super(SynchronizedCallbacks, self).on_epoch_begin(epoch, logs))
        check_drift(self._group, self.model, self._epoch_state.digest)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End an epoch; checkpoints are written, if the workers are still in step."""
        check_drift(self._group, self.model, self._epoch_state.digest)
        self._together(lambda: super(SynchronizedCallbacks, self).on_epoch_end(epoch, logs))
        ends = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if ends and self._shared_out is not None:
            # Keras may put averages into the weights now; and a save may follow on one worker.
            self._shared_out.gather()
        if self._notice is None or not self._epoch_state.only_epochs:
            return
        # After the last epoch the training is done; leaving would make a launcher start it again.
        if self._notice.reason_at_epoch() == RESIZE and not ends:
            self._leave(RESIZE)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin a step."""
        self._perhaps_together("begin", lambda: super(SynchronizedCallbacks, self).on_train_batch_begin(batch, logs))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a step. The logs hold global values already."""
        self._perhaps_together("end", lambda: super(SynchronizedCallbacks, self).on_train_batch_end(batch, logs))
        reason = "" if self._notice is None else self._notice.reason_at_step()
        if reason and not (reason == RESIZE and self._epoch_state.only_epochs):
            self._leave(reason)

    def on_test_begin(self, logs: Any = None) -> None:
        """Begin a validation."""
        self._perhaps_together("test_begin", lambda: super(SynchronizedCallbacks, self).on_test_begin(logs))

    def on_test_end(self, logs: Any = None) -> None:
        """End a validation."""
        self._perhaps_together("test_end", lambda: super(SynchronizedCallbacks, self).on_test_end(logs))

    def on_train_end(self, logs: Any = None) -> None:
        """End training."""
        if self._notice is not None:
            self._notice.stop()
        self._together(lambda: super(SynchronizedCallbacks, self).on_train_end(logs))
        resume_at(self.model, 0)

    def _leave(self, reason: str) -> None:
        """End all workers after a checkpoint of the chief's."""

        def leave() -> None:
            if self._checkpoint is not None and self._group.is_chief:
                self._checkpoint.leave(reason)

        self._together(leave)
        raise Preempted

    def _perhaps_together(self, when: str, hook: Callable[[], None]) -> None:
        if when in self._synchronized_hooks:
            self._together(hook)
        else:
            hook()

    def _together(self, hook: Callable[[], None]) -> None:
        """Run a hook on all workers. All stop if one stops, and all raise if one raises."""
        error: Exception | None = None
        try:
            with nullcontext() if self._shared_out is None else self._shared_out.asking(self._gather_variables):
                hook()
        except Exception as caught:
            # Kept until all workers have exchanged their status: raised at once, it would leave the others waiting.
            error = caught
        status = {"error": f"{type(error).__name__}: {error}" if error else "", "stop": bool(self.model.stop_training)}
        answers = self._exchange(status)
        while any(answer.get("gather") for answer in answers):
            # A worker asks within its hook for what the workers share out.
            if self._shared_out is not None:
                self._shared_out.gather()
            answers = self._exchange(status)
        # The worker that failed raises its own error, with its own traceback; the others name that worker.
        if error is not None:
            try:
                raise error
            finally:
                error = None  # Its traceback holds this frame, and those of `fit` with all that they hold.
        failed = [(index, answer["error"]) for index, answer in enumerate(answers) if answer["error"]]
        if failed:
            raise WorkerError(
                f"A callback failed on worker {failed[0][0]}: {failed[0][1].rstrip('.')}. All workers stop; "
                "that worker's log has the traceback."
            )
        if any(answer["stop"] for answer in answers):
            self.model.stop_training = True

    def _gather_variables(self) -> None:
        """Let all workers bring together what they share out, which are in the same hook, or at its end."""
        self._exchange({"gather": True})
        if self._shared_out is not None:
            self._shared_out.gather()

    def _exchange(self, status: dict[str, Any]) -> list[dict[str, Any]]:
        return self._group.exchange("is in a callback's hook in fit", status)

    def _follow_chief(self) -> None:
        """Take what the chief has read of a checkpoint: epoch, place in the data, and the values of all variables."""
        resumed, epoch = self._epoch_state.resumed, resumed_epoch(self.model)
        if resumed is None and epoch:  # A backup that plain Keras wrote.
            resumed = {"epoch": epoch, "data": None, "order_seed": None}
        optimizer = getattr(self.model, "optimizer", None)
        told = [resumed, bool(optimizer is not None and optimizer.built)]
        training, has_slots = self._group.exchange("resumes a training", told)[0]
        if training is None:
            return
        # A step of the user's own that insists on the number of rows has built nothing yet. The chief has, to read the
        # slots.
        if has_slots and optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        # Also metrics and the optimizer's slots: what one step reads, in the same order on all workers.
        variables = variables_of(self.model)
        for variable, value in zip(variables, self._group.broadcast([v.value for v in variables]), strict=True):
            variable.assign(value)
        self._follow_callbacks()
        if not self._group.is_chief:
            resume_training(self.model, training)

    def _follow_callbacks(self) -> None:
        """Take what the chief's callbacks go on from. Those that are the chief's alone are not here."""
        callbacks = self._epoch_state.callbacks
        counts, weights = callback_states(callbacks)
        described = [counts, [[list(weight.shape), weight.dtype.name] for weight in weights]]
        counts, kinds = self._group.exchange("resumes callbacks", described)[0]
        if not self._group.is_chief:
            weights = [tf.zeros(shape, name) for shape, name in kinds]
        values = self._group.broadcast(weights)
        if not self._group.is_chief:
            restore_callbacks(callbacks, self.model, counts, [value.numpy() for value in values])


def is_chief_only(callback: keras.callbacks.Callback) -> bool:
    """Tell whether a callback runs on the chief alone: by its attribute `chief_only`, or as a writer of Keras's."""
    return bool(getattr(callback, "chief_only", isinstance(callback, WRITERS)))


def _hooks_of(callbacks: list[keras.callbacks.Callback], reads_together: bool) -> list[str]:
    """Return the ends of a step (`"begin"`, `"end"`) and of a validation that the workers pass together.

    At those of a step a callback may stop training or fail, at those of a validation it may read what is shared out.

    Args:
        callbacks: Of this worker.
        reads_together: Whether what reads the optimizer's slots needs the other workers.
    """
    ends = _STEP_HOOKS | _TEST_HOOKS if reads_together else _STEP_HOOKS
    active = [each for each in callbacks if not _is_quiet(each) or (reads_together and _saves_within_epochs(each))]
    return [when for when, names in ends.items() if any(_has_own(each, name) for each in active for name in names)]


def _is_quiet(callback: keras.callbacks.Callback) -> bool:
    each_epoch = isinstance(callback, _CHECKPOINTS) and callback.save_freq == "epoch"
    return each_epoch or isinstance(callback, _QUIET)


def _saves_within_epochs(callback: keras.callbacks.Callback) -> bool:
    if isinstance(callback, Checkpoint):
        return not callback.only_at_epochs
    return isinstance(callback, keras.callbacks.BackupAndRestore) and callback.save_freq != "epoch"


def _has_own(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Return whether a callback overrides a hook, in its class or, as `LambdaCallback` does, on the object."""
    # A function that was assigned to the object has no `__func__`, and is never the plain one.
    plain = getattr(keras.callbacks.Callback, hook)
    return getattr(getattr(callback, hook), "__func__", None) is not plain
