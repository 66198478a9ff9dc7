"""The cluster file that `kparallel test --write` measures."""

import pytest

from kparallel.errors import PlanError
from kparallel.forecast.hardware import Link as Bandwidth
from kparallel.forecast.hardware_file import hardware_text, parse_hardware
from kparallel.selftest.hardware import Speed, combined, measure_speed
from kparallel.selftest.links import Link

FAST = Speed(2, 8e9, {"float32": 2e11, "float64": 1e11}, 0.6, 2e10, 1e-4, 5e-5)
SLOW = Speed(2, 4e9, {"float32": 1e11, "float64": 9e10}, 0.5, 3e10, 2e-4)


def test_the_slowest_of_each_counts():
    links = [
        Link(("worker 0", "worker 1"), "network", 1e-4, 1e9),
        Link(("worker 0", "worker 2"), "network", 4e-4, 2e9),
        Link(("worker 1", "worker 2"), "one host", 2e-5, 8e9),
    ]
    hardware = combined([FAST, SLOW, FAST, FAST], links, ["a", "b", "b", "a"])
    assert (hardware.machines, hardware.devices_per_machine, hardware.memory_per_device) == (2, 4, 4e9)
    assert hardware.flops == {"float32": 1e11, "float64": 9e10} and hardware.efficiency == 0.5
    assert hardware.between == Bandwidth(1e9, 2e-4) and hardware.within == Bandwidth(8e9, 1e-5)
    assert (hardware.memory_bandwidth, hardware.action_start, hardware.loop_step) == (2e10, 2e-4, 5e-5)
    assert parse_hardware(hardware_text(hardware)) == hardware


def test_what_makes_no_file_is_refused():
    with pytest.raises(PlanError, match="received worker 0 - worker 1, which is broken: hung up"):
        combined([FAST, FAST], [Link(("worker 0", "worker 1"), "network", problem="hung up")], ["a", "b"])
    with pytest.raises(PlanError, match="equal numbers of devices, received {'a': 4, 'b': 2}"):
        combined([FAST] * 3, [], ["a", "a", "b"])


def test_devices_are_measured():
    speed = measure_speed(("CPU:0", "CPU:1"), 1)
    assert speed.devices == 2 and speed.memory > 1e8 and 0 < speed.efficiency <= 1
    assert {"float32", "float64", "bfloat16", "float16"} <= set(speed.flops) and min(speed.flops.values()) > 1e6
    assert speed.flops["float32"] > 1e9 and speed.memory_rate > 1e8 and 1e-6 < speed.start < 1
    assert 1e-7 < speed.loop_step < 1
