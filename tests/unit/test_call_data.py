"""The data of a call, in a form that Keras's loops take."""

from types import SimpleNamespace

import numpy as np
import pytest

from kparallel.comm.group import SingleWorker
from kparallel.data.shards import ShardBatches, Shards
from kparallel.model.call_data import adapted, check_call
from kparallel.resume.epoch import EpochState


@pytest.fixture
def runtime():
    return SimpleNamespace(
        strategy=None, placement=SimpleNamespace(group=SingleWorker()), epoch=EpochState(), feeding=False
    )


def test_ordinary_data_stay_as_they_are(runtime):
    arguments = {"x": np.ones((2, 1)), "y": np.ones(2), "class_weight": {0: 1.0}}
    assert adapted(runtime, dict(arguments)) == arguments
    assert not runtime.epoch.unsized


def test_shards_begin_at_the_epoch_of_the_call_and_take_the_class_weights(runtime):
    train, validation = (Shards(lambda *_: None, 4, seed=0) for _ in range(2))
    train.epoch = validation.epoch = 7
    given = {"x": train, "validation_data": validation, "initial_epoch": 2, "class_weight": {0: 1.0}}
    found = adapted(runtime, given)
    assert isinstance(found["x"], ShardBatches) and isinstance(found["validation_data"], ShardBatches)
    assert (train.epoch, validation.epoch) == (2, 0) and "class_weight" not in found
    assert runtime.epoch.unsized


def test_alone_or_inside_of_fit_nothing_is_compared(runtime):
    check_call(runtime, "evaluate", {"x": None})
    runtime.placement.group.workers, runtime.feeding = 2, True
    check_call(runtime, "evaluate", {"x": None})
