"""Throughput over the number of devices."""

import pytest

from kparallel.forecast.configuration import Fixed
from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.scaling import scaling
from kparallel.forecast.step import StepModel
from kparallel.forecast.work import Work
from kparallel.planning.units import Unit

# 8 devices are more than one machine, and not whole ones.
HARDWARE = Hardware("two", 6, 1e9, {"float32": 1e9}, 1.0, Link(1e12, 0.0), machines=2, between=Link(1e12, 0.0))
UNITS = [Unit(f"dense_{i}", 1e6, 10, 40, 4, 4, (i - 1,) if i else (), (f"dense_{i}",)) for i in range(2)]


@pytest.fixture(scope="module")
def found():
    return scaling(StepModel(Work(UNITS, HARDWARE), batch_size=1200, slots=0), Fixed(stages=1, shard=None))


def test_parts_of_a_machine_and_whole_machines_are_tried(found):
    assert found.tried == (1, 2, 4, 12) and list(found.weak) == list(found.strong) == [1, 2, 4, 12]


def test_a_batch_grows_with_the_devices_or_stays(found):
    assert [found.weak[each].batch_size for each in found.tried] == [100, 200, 400, 1200]
    assert {each.batch_size for each in found.strong.values()} == {1200}


def test_without_costs_of_communication_both_scale_with_the_devices(found):
    # 2 MFLOP forward and twice as much backward for each of 1,200 rows, at 1 GFLOP/s: 7.2 s on one device.
    assert found.strong[1].time.total == pytest.approx(7.2)
    assert found.strong[12].time.total == pytest.approx(0.6)
    assert found.weak[1].time.total == pytest.approx(found.weak[12].time.total) == pytest.approx(0.6)


def test_a_number_of_devices_with_too_little_memory_is_left_out():
    # Weights and gradients of both calls take 1.6 GB, those of one call 0.8 GB of a device's 1 GB.
    heavy = [
        Unit("dense", 1e6, 10, 4 * 10**8, 4, 4, (), ("dense",)),
        Unit("head", 1e6, 10, 4 * 10**8, 4, 4, (0,), ("head",)),
    ]
    found = scaling(StepModel(Work(heavy, HARDWARE), batch_size=12, slots=0), Fixed(replicas=1, shard=None))
    assert found.strong.keys() == {2, 4, 12} and found.tried == (1, 2, 4, 12)
