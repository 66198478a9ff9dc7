"""Workers that have drifted apart are told by what each has read, its rate and its weights."""

import keras
import numpy as np
import pytest

from kparallel.data.digest import BatchDigest
from kparallel.errors import DataError, WorkerError
from kparallel.workers.drift import check_drift, check_same_batch
from tests.unit.groups import Answers


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.1))
    return model


def test_what_processors_round_differently_is_no_drift(model):
    norms = [float(np.sqrt(2)) * (1 + 1e-6), 0.0]
    check_drift(Answers({}, {"norms": norms, "rate": 0.1 * (1 + 1e-6)}), model, BatchDigest())


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"rate": 0.2}, WorkerError, "same learning rate on all workers, received worker 0: 0.1.*; worker 1: 0.2"),
        (
            {"norms": [1.5, 0.0]},
            WorkerError,
            "same values of weight '.*kernel'.*a norm of 1.41421; worker 1: a norm of",
        ),
        ({"norms": [float("nan"), 0.0]}, WorkerError, "worker 1: a norm of nan"),
        ({"read": "0000002a"}, DataError, r"same batches, received digests \['00000000', '0000002a'\]"),
    ],
)
def test_a_drift_is_named(model, change, error, told):
    with pytest.raises(error, match=told):
        check_drift(Answers(change), model, BatchDigest())


def test_a_failed_check_of_batches_starts_anew():
    read = BatchDigest()
    read.add((np.ones(3),))
    with pytest.raises(DataError):
        check_same_batch(read, [str(read), "other"])
    assert str(read) == str(BatchDigest())
