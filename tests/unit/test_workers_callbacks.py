"""Which callbacks belong to the chief of a cluster."""

import inspect

import keras
import pytest

from kparallel.workers.callbacks import WRITERS

# What Keras's callbacks call the place that they write to.
PLACES = {"filepath", "directory", "backup_dir", "log_dir", "filename", "root"}
CALLBACKS = [kind for kind in vars(keras.callbacks).values() if inspect.isclass(kind)]


@pytest.mark.parametrize("kind", CALLBACKS, ids=lambda kind: kind.__name__)
def test_every_callback_of_keras_that_writes_belongs_to_the_chief(kind):
    """Enumerated from the package, so that one of a later release is met."""
    writes = bool(PLACES & set(inspect.signature(kind.__init__).parameters))
    assert writes == issubclass(kind, WRITERS)
