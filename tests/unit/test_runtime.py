"""What a wrapped model carries beside its Keras self."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from kparallel.comm.group import SingleWorker
from kparallel.errors import PlanError
from kparallel.model.decide import decide
from kparallel.model.options import Options
from kparallel.model.runtime import Runtime


def chain(layers=2):
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(layers))], name="chain")


@pytest.fixture
def runtime():
    plan = decide(chain(), Options(stages=2, devices=["CPU:0", "CPU:1"]))
    placement = SimpleNamespace(group=SingleWorker(), rows=(("CPU:0", "CPU:1"), ("CPU:2", "CPU:3")))
    return Runtime(plan, None, placement, "mean")


def test_a_column_has_a_device_for_each_replica(runtime):
    assert runtime.column(0) == ("CPU:0", "CPU:2") and runtime.column(1) == ("CPU:1", "CPU:3")
    assert runtime.writes


def test_each_variable_has_the_stage_that_uses_it(runtime):
    model = chain()
    stages = runtime.stages_of(model)
    assert [stages[id(variable)] for variable in model.variables] == [0, 0, 1, 1]


def test_layers_that_were_added_since_are_told(runtime):
    with pytest.raises(PlanError, match="a model of the 2 calls that the plan cuts, received 3"):
        runtime.pipeline(chain(3))


def test_a_validation_inside_of_fit_goes_on_reading(runtime):
    with runtime.whole_batches():
        runtime.epoch.digest.add((np.ones(3),))
        before = str(runtime.epoch.digest)
        with runtime.whole_batches():
            assert runtime.feeding
        assert runtime.feeding and str(runtime.epoch.digest) == before
    assert not runtime.feeding
    with runtime.whole_batches():
        assert str(runtime.epoch.digest) != before
