"""Where the stages of a replica run."""

from types import SimpleNamespace

import pytest

from kparallel.comm.communicator import SingleReplica
from kparallel.engine.replica import Replica
from kparallel.engine.stage_device import LayerDevices, StageDevice


@pytest.mark.parametrize(
    ("stages", "devices", "expected"),
    [
        (1, ("CPU:0",), [StageDevice("CPU:0")]),
        (2, ("CPU:0", "CPU:1"), [StageDevice("CPU:0"), StageDevice("CPU:1")]),
        (2, ("CPU:0", "CPU:0"), [StageDevice("CPU:0")] * 2),
        (1, ("CPU:0", "CPU:1"), [LayerDevices("CPU:0")]),
    ],
)
def test_a_row_with_more_devices_than_stages_has_them_for_the_layers(stages, devices, expected):
    pipeline = SimpleNamespace(stages=(None,) * stages)
    replica = Replica(0, pipeline, devices, (SingleReplica(),) * len(devices), 1, 1, None)
    assert list(replica.stage_devices) == expected
    assert [type(each) for each in replica.stage_devices] == [type(each) for each in expected]
