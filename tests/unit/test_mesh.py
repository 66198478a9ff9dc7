"""The grid of devices."""

import pytest

from kparallel.errors import DeviceError
from kparallel.mesh import Mesh, device_name, full_device_name


def test_a_device_may_stand_twice_in_its_row_and_in_no_other():
    Mesh((("CPU:0", "CPU:0"), ("CPU:1", "CPU:1")))
    with pytest.raises(DeviceError, match="more than once"):
        Mesh((("CPU:0", "CPU:1"), ("CPU:1", "CPU:2")))
    with pytest.raises(DeviceError, match="the same stages on one device"):
        Mesh((("CPU:0", "CPU:0"), ("CPU:1", "CPU:2")))


@pytest.mark.parametrize(
    ("name", "short", "full"),
    [
        ("gpu:0", "GPU:0", "GPU:0"),
        ("/job:localhost/replica:0/task:0/device:CPU:1", "CPU:1", "CPU:1"),
        ("/job:worker/replica:0/task:2/device:GPU:3", "worker2/GPU:3", "/job:worker/replica:0/task:2/device:GPU:3"),
        ("worker0/cpu:0", "worker0/CPU:0", "/job:worker/replica:0/task:0/device:CPU:0"),
    ],
)
def test_a_name_tells_the_worker_where_it_is_another_machine(name, short, full):
    assert device_name(name) == short and full_device_name(name) == full


@pytest.mark.parametrize("name", ["worker1", "worker/CPU:0", "worker1CPU:0", "1/CPU:0", None])
def test_other_names_are_refused(name):
    with pytest.raises(DeviceError, match="'worker1/GPU:0'"):
        device_name(name)


def test_a_mesh_is_as_wide_as_its_names():
    assert str(Mesh((("GPU:0", "worker1/GPU:0"), ("GPU:1", "worker1/GPU:1")))) == (
        "            stage 0         stage 1\n"
        "replica 0   GPU:0           worker1/GPU:0\n"
        "replica 1   GPU:1           worker1/GPU:1"
    )


def test_kinds_of_devices_do_not_mix_whatever_the_worker():
    with pytest.raises(DeviceError, match=r"\['CPU', 'GPU'\]"):
        Mesh((("worker0/CPU:0", "worker1/GPU:0"),))
