"""The grid of devices."""

import pytest

from kparallel.errors import DeviceError
from kparallel.mesh import Mesh


def test_a_device_may_stand_twice_in_its_row_and_in_no_other():
    Mesh((("CPU:0", "CPU:0"), ("CPU:1", "CPU:1")))
    with pytest.raises(DeviceError, match="more than once"):
        Mesh((("CPU:0", "CPU:1"), ("CPU:1", "CPU:2")))
    with pytest.raises(DeviceError, match="the same stages on one device"):
        Mesh((("CPU:0", "CPU:0"), ("CPU:1", "CPU:2")))
