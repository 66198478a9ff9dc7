"""The variables that the workers share out: where they come together, and what reads of them wait for.

```text
             step               where all workers pass               step
worker 0     a's slots    ──►   slots of a, slots of b    ──►   a's slots       holds a
worker 1     b's slots    ──►   slots of a, slots of b    ──►   b's slots       holds b
```

These are the slots of a sharded optimizer, and with `shard="weights"` the weights too. Between steps such a variable
has a value on one worker alone. A worker that reads another one's variable could wait forever, since the others may be
in the next step. So they come together only where all workers pass: after `fit` and `train_on_batch`, in those
hooks of callbacks after which the workers exchange messages, if one of them reads there, and in `bring_together`.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from kparallel.comm.failures import translate_worker_loss
from kparallel.comm.group import WorkerGroup
from kparallel.compat.placed_variables import VariableAccess, VariableOfWorkers
from kparallel.compat.variables import variable_of_workers
from kparallel.errors import ModelError
from kparallel.model_variables import variables_of
from kparallel.workers.consistency import reminding
from kparallel.workers.drift import check_written, check_written_alike

__all__: list[str] = []

_AT_ONCE = 2**26  # Bytes that travel in one collective; each worker needs as many again for what it adds.


class VariablesOfWorkers(VariableAccess):
    """Brings what the workers share out of a model together, and drops it again before a step.

    Args:
        group: The workers.
        replicas: The number of replicas on each.
        shard: What they share out: `"optimizer"` or `"weights"`.
    """

    def __init__(self, group: WorkerGroup, replicas: int, shard: str) -> None:
        self._group = group
        self._replicas = replicas
        self._shard = shard
        self._model: Callable[[], keras.Model | None] = lambda: None
        self._ask: Callable[[], None] | None = None
        self.is_apart = False  # The same on all workers.
        self._is_written = False  # Whether this worker has written into one since they came together.
        # Whether it had, where a loop's step dropped what others own; None where none has done so since. On all workers
        # it is None or none of them.
        self._was_written: bool | None = None

    def belong_to(self, model: keras.Model) -> None:
        """Say which model has the variables."""
        self._model = weakref.ref(model)

    def placed(self) -> None:
        self.is_apart = False  # A variable is on every worker when it is placed; the next step drops it.

    def release(self) -> None:
        """Drop, before a step, what other workers hold. All workers make the same call.

        Raises:
            WorkerError: A weight or slot was written, and not on all workers alike.
        """
        if not self.is_apart:
            self._check_written()
            self._drop()

    def release_in_graph(self) -> None:
        """Drop what other workers hold, where a graph runs: who has written into it is compared in `gather`."""
        # No message may be sent here. It takes threads of TensorFlow's, of which the graph may have one, this one.
        if not self.is_apart:
            self._was_written, self._is_written = bool(self._was_written) or self._is_written, False
            self._drop()

    def _drop(self) -> None:
        for variable in self._variables():
            variable.release()
        self.is_apart = True

    def gather(self) -> None:
        """Give every worker the values of all variables. All workers make the same call.

        Raises:
            WorkerError: A weight or slot was written, and not on all workers alike.
        """
        self._check_written()
        variables = self._variables()
        while variables:
            part = [variables.pop(0)]
            while variables and sum(map(_bytes, part)) + _bytes(variables[0]) <= _AT_ONCE:
                part.append(variables.pop(0))
            values = [variable.local_value() for variable in part]
            sent = [tf.zeros(v.shape, v.dtype) if own is None else own for v, own in zip(part, values, strict=True)]
            owners = [variable.owner.replica // self._replicas for variable in part]
            for variable, own, value in zip(part, values, self._group.broadcast(sent, owners), strict=True):
                if own is None:
                    variable.receive(value)
        self.is_apart = False

    def _check_written(self) -> None:
        """Compare what a worker has written into another one's variable, which is lost when that is dropped."""
        was_written, self._was_written = self._was_written, None
        if was_written is not None:
            check_written_alike(self._group, was_written)
        model, is_written = self._model(), self._is_written
        if model is not None and not self.is_apart:
            self._is_written = False
            shared = [each for each in variables_of(model) if variable_of_workers(each) is not None]
            check_written(self._group, shared, is_written)

    def gather_if_apart(self, what: str = "reads a checkpoint") -> None:
        """Give every worker the values of all variables, if one lacks some. All workers make the same call.

        Args:
            what: What the others are told that this worker does. Default that it reads a checkpoint.
        """
        if any(self._group.exchange(what, self.is_apart)):
            self.gather()

    @contextmanager
    def asking(self, ask: Callable[[], None]) -> Iterator[None]:
        """Let a read or a write bring the variables together.

        Args:
            ask: Asks the other workers, all of which answer, to make the same call of `gather`, and makes it.
        """
        before, self._ask = self._ask, ask
        try:
            yield
        finally:
            self._ask = before

    def before_read(self, variable: VariableOfWorkers, in_graph: bool) -> None:
        if in_graph:
            way_out = ", or say shard='optimizer' where a step reads it" if variable.owner.is_weight else ""
            raise ModelError(
                f"Expected the {self._described(variable)} to be read outside of every tf.function, received a read "
                "inside one: one worker alone holds it while steps run. Read it with numpy() where all workers pass"
                f"{way_out}."
            )
        # Where all workers run the same hook, the owner's asks too: it would go on alone, perhaps to a collective.
        if not variable.local_copies or (self.is_apart and self._ask is not None):
            self._bring_together(variable, "read")

    def before_write(self, variable: VariableOfWorkers) -> None:
        # A worker that first wrote its own variables and then asked for others would send what it has written already.
        if self.is_apart:
            self._bring_together(variable, "written")
        self._is_written = True

    def _bring_together(self, variable: VariableOfWorkers, what: str) -> None:
        if self._ask is None:
            kind = "weight" if variable.owner.is_weight else "slot"
            raise ModelError(
                f"Expected the {self._described(variable)} to be {what} where all workers pass, received worker "
                f"{self._group.worker_index} alone, while each {kind} is on one worker. Do it after fit or "
                "train_on_batch, after kparallel.bring_together(model), which all workers have to call, or in fit in "
                "a callback's hook at the begin or end of training, an epoch, a training batch or a validation."
            )
        self._ask()

    def _described(self, variable: VariableOfWorkers) -> str:
        kind = f"weight {variable.name!r}" if variable.owner.is_weight else f"slot {variable.name!r} of an optimizer"
        return f"{kind} with shard={self._shard!r}"

    def _variables(self) -> list[VariableOfWorkers]:
        """Return all variables that are shared out, in an order that is the same on all workers."""
        model = self._model()
        found = [] if model is None else [variable_of_workers(variable) for variable in variables_of(model)]
        return [variable for variable in found if variable is not None]


def bring_together(model: keras.Model) -> None:
    """Give every worker the optimizer's slots, and with `shard="weights"` the weights, that the workers share out.

    Call it on all workers in a training loop of your own, before one of them saves the model or reads a slot: between
    the steps of a loop each slot is on one worker alone, and a read raises. The next update drops what others own,
    with `shard="weights"` the next call of `strategy.run`.
    After `fit` and `train_on_batch` it does nothing, nor on one machine, nor for a model that is not wrapped. It waits
    for all workers, and says so on stderr after ten seconds.

    Args:
        model: The model.

    Raises:
        WorkerError: Another worker makes another call, or is lost.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> bring_together(model)  # Then any worker may call model.save.
    """
    runtime = vars(model).get("_kparallel")
    if runtime is not None and runtime.shared_out is not None:
        with reminding(runtime.placement.group, "kparallel.bring_together"), translate_worker_loss():
            runtime.shared_out.gather_if_apart("brings together what the workers share out")


def _bytes(variable: VariableOfWorkers) -> int:
    return int(variable.shape.num_elements() * variable.dtype.size)
