"""Which callbacks belong to the chief of a cluster."""

import inspect

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
