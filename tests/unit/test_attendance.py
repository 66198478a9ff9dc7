"""Who has come to the rendezvous, without a network."""

import pytest

from kparallel.attendance import Attendance
from kparallel.cluster import Cluster

THREE = Cluster(("a:1", "b:2", "c:3"), 0)


@pytest.fixture
def attendance():
    return Attendance(THREE, {"version": "1"})


def test_all_are_met_once_each_was_reached_and_heard(attendance):
    for peer in (1, 2):
        assert not attendance.is_complete
        attendance.reached(peer, {"version": "1"})
        assert not attendance.is_complete
        assert attendance.heard(peer, {"version": "1"})
    assert attendance.is_complete and attendance.difference() == ""
    assert attendance.missing() == (
        "worker 1 (b:2: it still waits for others), worker 2 (c:3: it still waits for others)"
    )
    attendance.ready(1)
    attendance.ready(2)
    assert attendance.missing() == "" and not attendance.heard(1, {"version": "2"})


def test_what_is_known_of_a_missing_worker_is_told(attendance):
    assert attendance.missing() == "worker 1 (b:2), worker 2 (c:3)"
    attendance.reached(1, {"version": "1"})
    attendance.strange(2, "something else answers there")
    told = "worker 1 (b:2: it cannot reach this worker yet), worker 2 (c:3: something else answers there)"
    assert attendance.missing() == told
    attendance.strange(2, "")
    assert attendance.missing() == told.replace(": something else answers there", "")


def test_a_worker_that_hangs_up_has_to_come_again(attendance):
    for peer in (1, 2):
        attendance.reached(peer, {"version": "1"})
        attendance.heard(peer, {"version": "1"})
    attendance.hung_up(2)
    assert not attendance.is_complete and attendance.missing() == "worker 2 (c:3)"


def test_a_difference_is_named_as_soon_as_one_is_met(attendance):
    attendance.heard(2, {"version": "2"})
    assert "Expected the same version on all workers, received worker 0: 1, worker 2: 2." in attendance.difference()
    attendance.reached(1, {})
    assert "worker 1: None" in attendance.difference()
