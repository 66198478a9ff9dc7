"""The arguments of `fit` are made the same on every worker."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from kparallel.data.shuffled import ShuffledArrays
from kparallel.errors import DataError
from kparallel.resume.epoch import EpochState
from kparallel.workers.callbacks import SynchronizedCallbacks
from kparallel.workers.fit_arguments import fit_arguments
from tests.unit.groups import Answers

ROWS = {"x": np.ones((6, 1)), "y": np.ones((6, 1))}


class Other(Answers):
    """Worker 0 of two; what the other one says of its data differs by some changes."""

    def exchange(self, doing, value):
        return super().exchange(doing, value) if isinstance(value, dict) else [value, value]


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    object.__setattr__(model, "_kparallel", SimpleNamespace(shared_out=None))
    return model


def test_only_what_differs_from_the_defaults_is_passed_on(model):
    epoch = EpochState()
    found = fit_arguments(model, Other({}), epoch, {**ROWS, "shuffle": False, "epochs": 2, "batch_size": 2})
    assert found.keys() == {"x", "y", "shuffle", "epochs", "batch_size", "verbose", "callbacks"}
    assert found["x"] is ROWS["x"] and found["verbose"] == 1  # The chief shows progress.
    assert isinstance(found["callbacks"], SynchronizedCallbacks) and not epoch.unsized
    assert found["callbacks"].params["steps"] == 3


def test_workers_do_not_show_progress_unless_asked(model):
    group = Other({})
    group.worker_index = 1
    assert fit_arguments(model, group, EpochState(), {**ROWS, "shuffle": False})["verbose"] == 0
    assert fit_arguments(model, group, EpochState(), {**ROWS, "shuffle": False, "verbose": 2})["verbose"] == 2


def test_shuffled_arrays_get_an_order_of_the_epoch(model):
    epoch = EpochState()
    found = fit_arguments(model, Other({}), epoch, {**ROWS, "batch_size": 2})
    if epoch.order is None:  # From Keras 3.16 on all workers have one order anyway.
        assert found["x"] is ROWS["x"]
    else:
        assert isinstance(found["x"], ShuffledArrays) and epoch.order is found["x"] and len(found["x"]) == 3
        assert found["shuffle"] is False and found.get("y") is None


def test_a_worker_with_fewer_rows_is_told(model):
    with pytest.raises(DataError, match=r"the same number of rows on all workers, received \[6, 5\]"):
        fit_arguments(model, Other({"rows": 5}), EpochState(), {**ROWS, "shuffle": False})
