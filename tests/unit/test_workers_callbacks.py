"""Which callbacks belong to the chief of a cluster."""

import gc
import inspect
import weakref
from contextlib import contextmanager

import keras
import pytest

from kparallel.comm.group import WorkerGroup
from kparallel.data.digest import BatchDigest
from kparallel.workers.callbacks import WRITERS, SynchronizedCallbacks, is_chief_only

# What Keras's callbacks call the place that they write to.
PLACES = {"filepath", "directory", "backup_dir", "log_dir", "filename", "root"}
CALLBACKS = [kind for kind in vars(keras.callbacks).values() if inspect.isclass(kind)]


@pytest.mark.parametrize("kind", CALLBACKS, ids=lambda kind: kind.__name__)
def test_every_callback_of_keras_that_writes_belongs_to_the_chief(kind):
    """Enumerated from the package, so that one of a later release is met."""
    writes = bool(PLACES & set(inspect.signature(kind.__init__).parameters))
    assert writes == issubclass(kind, WRITERS)


class Pictures(keras.callbacks.Callback):
    """Writes files, as a user's own may."""

    chief_only = True


class Seat(WorkerGroup):
    """One of two workers, which gets from the other what it sends itself."""

    def all_gather_text(self, text):
        return [text] * self.workers

    def broadcast(self, values):
        return values


class Counting(Seat):
    """Counts what it sends."""

    messages = 0

    def all_gather_text(self, text):
        self.messages += 1
        return super().all_gather_text(text)


@pytest.mark.parametrize("worker", [0, 1])
def test_a_callback_that_says_so_runs_on_the_chief_alone(worker):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    given = [Pictures(), keras.callbacks.EarlyStopping(), keras.callbacks.CSVLogger("log.csv")]
    kept = SynchronizedCallbacks(given, Seat(2, worker), None, model, BatchDigest()).callbacks
    assert given[1] in kept
    assert (given[0] in kept) == (given[2] in kept) == (worker == 0)


def test_a_callback_of_keras_that_writes_may_run_everywhere():
    callback = keras.callbacks.CSVLogger("log.csv")
    callback.chief_only = False
    assert not is_chief_only(callback)


class Shared:
    """What workers share out; notes whether a hook may bring it together."""

    may_gather = False

    @contextmanager
    def asking(self, ask):
        self.may_gather = True
        yield
        self.may_gather = False


@pytest.mark.parametrize("shared", [Shared(), None])
def test_a_hook_of_a_validation_reads_what_is_shared_out(shared):
    """As `SwapEMAWeights` does. Where nothing is shared out, the hook costs no message."""
    model, group, seen = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]), Counting(2, 0), []
    note = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append(shared and shared.may_gather),
        on_test_end=lambda logs: seen.append(shared and shared.may_gather),
    )
    callbacks = SynchronizedCallbacks([note], group, None, model, BatchDigest(), shared)
    before, model.stop_training = group.messages, False
    callbacks.on_test_begin()
    callbacks.on_test_end()
    assert seen == ([None, None] if shared is None else [True, True])
    assert group.messages - before == (0 if shared is None else 2)


class Fault(Exception):
    pass


def test_an_error_of_a_hook_goes_with_its_traceback():
    """In a cycle of references it would keep the frames of `fit` until some later garbage collection."""

    def fail(logs):
        raise Fault

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    callbacks = [keras.callbacks.LambdaCallback(on_train_begin=fail)]
    callbacks = SynchronizedCallbacks(callbacks, Seat(2, 0), None, model, BatchDigest())
    model.stop_training = False
    gc.disable()
    try:
        try:
            callbacks.on_train_begin()
        except Fault as fault:
            kept = weakref.ref(fault)
        else:
            pytest.fail("It raised nothing.")
        assert kept() is None
    finally:
        gc.enable()
