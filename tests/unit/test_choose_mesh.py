"""The mesh that options and devices give."""

import pytest

from kparallel.errors import DeviceError, PlanError
from kparallel.model.choose_mesh import choose_mesh
from kparallel.model.options import Options

FOUR = ("CPU:0", "CPU:1", "CPU:2", "CPU:3")


@pytest.mark.parametrize(
    ("options", "stages", "workers", "rows"),
    [
        ({}, 1, 1, tuple((name,) for name in FOUR)),
        ({}, 2, 1, (FOUR[:2], FOUR[2:])),
        ({"replicas": 1}, 2, 1, (FOUR[:2],)),
        ({"replicas": 2, "devices": FOUR[1:3]}, 1, 1, (("CPU:1",), ("CPU:2",))),
        ({"replicas": 1, "devices": ["CPU:0", "cpu:1"]}, 4, 1, (("CPU:0", "CPU:0", "CPU:1", "CPU:1"),)),
        (
            {"replicas": 1, "devices": FOUR[:2], "schedule": "interleaved"},
            4,
            1,
            (("CPU:0", "CPU:1", "CPU:0", "CPU:1"),),
        ),
        ({"stages": {"CPU:2": ["a"], "CPU:0": ["b"]}}, 2, 1, (("CPU:2", "CPU:0"),)),
        ({}, 2, 3, (FOUR[:2],)),
        ({"replicas": 3}, 4, 3, (FOUR,)),
    ],
)
def test_rows_are_replicas_and_columns_stages(options, stages, workers, rows):
    assert choose_mesh(Options(**options), stages, workers).rows == rows


@pytest.mark.parametrize(
    ("options", "stages", "workers", "error", "words"),
    [
        ({}, 5, 1, PlanError, "at most 4 stages"),
        ({"replicas": 5}, 1, 1, PlanError, "1 to 4 replicas"),
        ({"replicas": 3}, 1, 2, PlanError, "2 workers divide evenly"),
        ({"replicas": 4}, 1, 2, PlanError, "one replica on each of 2 workers"),
        ({"devices": ["CPU:0", "CPU:0"]}, 1, 1, DeviceError, "CPU:0"),
        ({"devices": ["CPU:9"]}, 1, 1, DeviceError, "CPU:9"),
        ({"devices": FOUR, "stages": {"CPU:0": ["a"]}}, 1, 1, PlanError, "named once"),
        ({"replicas": 2, "stages": {"CPU:0": ["a"]}}, 1, 1, PlanError, "list of lists"),
        ({"replicas": 1, "devices": FOUR[:2], "schedule": "interleaved"}, 5, 1, PlanError, "2 devices divide"),
    ],
)
def test_what_does_not_fit_is_refused(options, stages, workers, error, words):
    with pytest.raises(error, match=words):
        choose_mesh(Options(**options), stages, workers)
