"""The columns of one program over several machines: replicas of a stage on one, stages of a replica on all."""

import pytest

from kparallel.errors import PlanError
from kparallel.mesh import Mesh
from kparallel.model.machine_columns import check_first_column, machine_columns, machine_rows
from kparallel.model.options import Options


def machines(*counts):
    """Return the names of some devices on each machine."""
    return [f"worker{worker}/GPU:{index}" for worker, count in enumerate(counts) for index in range(count)]


def shortened(columns):
    return " ".join("+".join(name[6:7] + name[-1] for name in column) for column in columns)


@pytest.mark.parametrize(
    ("counts", "stages", "options", "want"),
    [
        ((1, 1), 2, {}, "00 10"),
        ((2, 2), 2, {}, "00+01 10+11"),
        ((2, 2), 4, {}, "00 01 10 11"),
        ((2, 2), 3, {}, "00 01 10"),
        ((4, 4), 4, {}, "00+01 02+03 10+11 12+13"),
        ((4, 4), 2, {"replicas": 3}, "00+01+02 10+11+12"),
        ((1, 3), 4, {}, "00 10 11 12"),
        ((1, 1, 1), 2, {}, "00 10"),
        ((1, 1), 4, {"replicas": 1}, "00 10"),
        ((2, 2), 8, {"schedule": "interleaved"}, "00 01 10 11"),
    ],
)
def test_lanes_go_worker_by_worker(counts, stages, options, want):
    assert shortened(machine_columns(machines(*counts), Options(**options), stages)) == want


def test_devices_of_one_machine_may_have_one_stage():
    assert machine_columns(machines(2), Options(), 1) == (("worker0/GPU:0", "worker0/GPU:1"),)


@pytest.mark.parametrize(
    ("names", "stages", "options", "words"),
    [
        (machines(2, 2), 1, {}, "only this one would train"),
        (machines(2, 2), 5, {}, "at most 4 stages"),
        (machines(2, 1), 2, {"replicas": 2}, "2 on worker 0, 1 on worker 1"),
        (machines(1, 1)[1:], 2, {}, "stage 0 on worker 0, which runs the script"),
    ],
)
def test_what_does_not_fit_is_refused(names, stages, options, words):
    with pytest.raises(PlanError, match=words):
        machine_columns(names, Options(**options), stages)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((("worker1/GPU:0", "worker0/GPU:0"),), "received 'worker1/GPU:0'"),
        ((("GPU:0", "GPU:1"), ("GPU:2", "worker1/GPU:1")), r"for stage 1\. Give each stage devices of one worker"),
    ],
)
def test_a_plan_by_hand_has_each_stage_on_one_machine_and_the_first_on_worker_0(rows, words):
    with pytest.raises(PlanError, match=words):
        check_first_column(Mesh(rows))


def test_a_plan_that_fits_passes():
    mesh = Mesh((("GPU:0", "worker1/GPU:0"),))
    assert check_first_column(mesh) is mesh


def test_a_search_gets_rows_where_the_devices_allow_them():
    names = machines(2, 2)
    assert machine_rows(names, Options(), 2, 2) == (
        ("worker0/GPU:0", "worker1/GPU:0"),
        ("worker0/GPU:1", "worker1/GPU:1"),
    )
    # One stage would leave a machine idle; three replicas need three devices on each; five stages would share a device.
    assert [machine_rows(names, Options(), *each) for each in ((1, 1), (3, 2), (1, 5))] == [None] * 3
