"""The memory of a device in a forecast is that of the plan which the forecast stands for."""

import pytest

from kparallel.forecast.configuration import Configuration, Fixed
from kparallel.forecast.device_memory import device_memory
from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.search import best
from kparallel.forecast.step import StepModel
from kparallel.forecast.work import Work
from kparallel.mesh import Mesh
from kparallel.planning.groups import layer_groups
from kparallel.planning.plan import Plan
from kparallel.planning.shares import shares
from tests.unit.described import transformer

NODE = Hardware("node", 4, 1e12, {"float32": 1e12}, 1.0, Link(1e10, 1e-6), memory_bandwidth=1e11)
UNITS = transformer(4, 64, 32)


@pytest.mark.parametrize("microbatches, recompute", [(1, "never"), (1, "always"), (2, "never")])
def test_shared_weights_take_what_the_plan_says(microbatches, recompute):
    work = Work(UNITS, NODE)
    stages = work.cut(3)
    stage_of = [sum(index >= start for start in stages.starts) - 1 for index in range(len(UNITS))]
    groups = layer_groups(UNITS, stage_of, 3, [unit.flops_per_row for unit in UNITS])
    rows = tuple((f"CPU:{index}",) * 3 for index in range(4))
    options = {"schedule": "interleaved", "recompute": recompute, "shard": "weights"}
    plan = Plan("it", Mesh(rows), groups, microbatches, batch_size=32, **options)
    configuration = Configuration(4, 1, 3, microbatches, **options)
    told = device_memory(configuration, stages, 32 // 4 // microbatches, 2)
    assert told.tolist() == pytest.approx([shares(plan).total])


def test_what_fits_only_with_shared_weights_is_found_so():
    model = StepModel(Work(UNITS, NODE), 32)
    need = {
        shard: model.memory(Configuration(4, 1, stages, 1, "interleaved", "always", shard), model.work.cut(stages))[0]
        for shard, stages in (("optimizer", 1), ("weights", 8))
    }
    assert need["weights"] < need["optimizer"]
    small = Hardware("small", 4, need["weights"] * 1.01, {"float32": 1e12}, 1.0, NODE.within, memory_bandwidth=1e11)
    found = best(StepModel(Work(UNITS, small), 32), Fixed(replicas=4, recompute="always", microbatches=1))
    assert {(each.configuration.shard, each.configuration.lanes) for each in found} == {("weights", 1)}
    assert all(each.time.reduction > 0 and each.memory <= small.memory_per_device for each in found)
