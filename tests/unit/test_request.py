"""What both searches for a plan start from."""

import math

import pytest

from kparallel.errors import PlanError
from kparallel.planning.request import Request
from kparallel.planning.units import Unit

UNITS = [Unit(f"dense_{i}", 10.0 * (i + 1), 1, 4, 4, 4, (), (f"dense_{i}",)) for i in range(2)]


def test_what_is_not_said_follows_from_the_model():
    request = Request(UNITS, ["CPU:0"], 4)
    assert request.unit_costs == [10.0, 20.0] and math.isinf(request.limit)
    request = Request(UNITS, ["CPU:0"], 4, "2kB", costs=(3.0, 1.0))
    assert request.unit_costs == [3.0, 1.0] and request.limit == 2000
    with pytest.raises(PlanError, match="'much'"):
        _ = Request(UNITS, ["CPU:0"], 4, "much").limit
