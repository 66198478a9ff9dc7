"""Callbacks in a cluster: the chief writes, all workers decide alike, and an error on one stops all.

After every hook at which a callback may stop training or fail, the workers tell one another what happened. Without
that, one worker would leave the loop while the others wait for it in the next step's reduction.
"""

import json
from collections.abc import Callable
from typing import Any

import keras

from kparallel.comm.group import WorkerGroup
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import WorkerError
from kparallel.model.agreed_notice import AgreedNotice
from kparallel.model.checkpoint import Checkpoint, go_on
from kparallel.model.notice import Preempted
from kparallel.model.runtime import Runtime
from kparallel.model.takeover import written_variables
from kparallel.workers.drift import check_drift

__all__: list[str] = []

_CHECKPOINTS = (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
WRITERS = (
    *_CHECKPOINTS,
    keras.callbacks.BackupAndRestore,
    Checkpoint,
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
        runtime: The model's; it knows what this worker has read.
        **params: As `keras.callbacks.CallbackList` takes them.
    """

    def __init__(
        self,
        callbacks: Any,
        group: WorkerGroup,
        order: ShuffledArrays | Shards | None,
        model: Any,
        runtime: Runtime,
        **params: Any,
    ) -> None:
        given = list(keras.tree.flatten(callbacks)) if callbacks else []
        kept = [callback for callback in given if group.is_chief or not isinstance(callback, WRITERS)]
        self._group = group
        self._order = order
        self._runtime = runtime
        self._checkpoint = next((each for each in given if isinstance(each, Checkpoint)), None)
        restores = any(isinstance(each, Checkpoint | keras.callbacks.BackupAndRestore) for each in given)
        status = [_hooks_of(given), restores, self._checkpoint is not None]
        answers = [json.loads(answer) for answer in group.all_gather_text(json.dumps(status))]
        self._loud = {hook for hooks, *_ in answers for hook in hooks}
        self.follows = any(restores for _, restores, _ in answers)
        self._notice = AgreedNotice(group) if any(checkpoints for *_, checkpoints in answers) else None
        super().__init__(kept, add_history=True, add_progbar=params.get("verbose", 0) != 0, model=model, **params)

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin, and start every worker where the chief's checkpoint was written."""
        self._together(lambda: super(SynchronizedCallbacks, self).on_train_begin(logs))
        if self.follows:
            self._follow_chief()
        if self._notice is not None:
            self._notice.listen()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch, in its order of rows, if the callbacks have left the workers alike."""
        if self._order is not None:
            self._order.epoch = epoch
        self._together(lambda: super(SynchronizedCallbacks, self).on_epoch_begin(epoch, logs))
        check_drift(self._group, self.model, self._runtime.read)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End an epoch; checkpoints are written, if the workers are still in step."""
        check_drift(self._group, self.model, self._runtime.read)
        self._together(lambda: super(SynchronizedCallbacks, self).on_epoch_end(epoch, logs))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin a step."""
        self._perhaps_together("begin", lambda: super(SynchronizedCallbacks, self).on_train_batch_begin(batch, logs))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a step; what the callbacks see is global already."""
        self._perhaps_together("end", lambda: super(SynchronizedCallbacks, self).on_train_batch_end(batch, logs))
        if self._notice is not None and self._notice.has_come():
            self._together(self._leave)
            raise Preempted

    def on_train_end(self, logs: Any = None) -> None:
        """End."""
        if self._notice is not None:
            self._notice.stop()
        self._together(lambda: super(SynchronizedCallbacks, self).on_train_end(logs))
        self.model._initial_epoch = None

    def _leave(self) -> None:
        if self._checkpoint is not None and self._group.is_chief:
            self._checkpoint.leave()

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
        """Take what the chief has read of a checkpoint: epoch, place in the data, and the values of all variables."""
        resumed, epoch = self._runtime.resumed, self.model._initial_epoch
        if resumed is None and epoch:  # A backup that plain Keras wrote.
            resumed = {"epoch": epoch, "data": None, "order_seed": None}
        training = json.loads(self._group.all_gather_text(json.dumps(resumed))[0])
        if training is None:
            return
        variables = written_variables(self.model)
        for variable, value in zip(variables, self._group.broadcast([v.value for v in variables]), strict=True):
            variable.assign(value)
        if not self._group.is_chief:
            go_on(self.model, training)


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
