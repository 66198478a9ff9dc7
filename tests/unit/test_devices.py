"""The devices of this process, of which these tests have four."""

import pytest

from kparallel.devices import (
    check_devices,
    devices_of_one_kind,
    has_several_machines,
    local_devices,
    virtual_devices,
)
from kparallel.errors import DeviceError

FOUR = ("CPU:0", "CPU:1", "CPU:2", "CPU:3")


def test_the_devices_of_one_process():
    assert local_devices() == FOUR == virtual_devices(4)


def test_names_may_be_spelled_as_tensorflow_does():
    assert check_devices(["/device:CPU:1", "cpu:0"]) == ("CPU:1", "CPU:0")


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ("CPU:0", r"Write \['CPU:0'\]"),
        (3, "Expected a list of device names"),
        ([0, 1], "Expected a list of device names"),
        (["CPU:0", "CPU:7"], r"received \['CPU:7'\]"),
        (["first"], "received 'first'"),
    ],
)
def test_other_devices_are_refused(devices, words):
    with pytest.raises(DeviceError, match=words):
        check_devices(devices)


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "2"])
def test_a_number_of_virtual_devices_is_whole_and_above_0(count):
    with pytest.raises(DeviceError, match="at least one virtual device"):
        virtual_devices(count)


def test_devices_cannot_be_made_once_tensorflow_runs():
    with pytest.raises(DeviceError, match="it runs with 4 CPU"):
        virtual_devices(2)


def test_each_machine_gives_its_gpus_or_its_cpus():
    both = ["worker0/GPU:0", "worker1/GPU:0", "worker0/CPU:0", "worker1/CPU:0"]
    assert devices_of_one_kind(both) == ("worker0/GPU:0", "worker1/GPU:0")
    assert devices_of_one_kind(both[2:]) == ("worker0/CPU:0", "worker1/CPU:0")


def test_machines_with_gpus_and_without_are_refused():
    with pytest.raises(DeviceError, match="GPUs on worker 0, CPUs on worker 1"):
        devices_of_one_kind(["worker0/GPU:0", "worker0/CPU:0", "worker1/CPU:0"])


def test_one_process_is_one_machine():
    assert not has_several_machines()
