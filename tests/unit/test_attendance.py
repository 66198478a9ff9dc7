"""Who has come to the rendezvous, without a network."""

import pytest

from kparallel.attendance import Attendance, Strangers, Wait
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


def test_all_strangers_are_counted_and_a_few_are_told():
    strangers = Strangers()
    assert str(strangers) == ""
    assert [strangers.drop("10.0.0.9", f"line {number}") for number in range(7)] == [True] * 5 + [False] * 2
    assert str(strangers) == " Connections that were dropped: 7, the last from 10.0.0.9: line 6."


def test_a_wait_is_over_after_its_timeout_and_told_at_intervals(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("kparallel.attendance.time.monotonic", lambda: now[0])
    wait, told = Wait(timeout=10, interval=4), []
    for _ in range(10):
        assert not wait.is_over
        now[0] += 1
        told.append(wait.is_to_be_told())
    assert told == [False, False, False, True] * 2 + [False, False]
    assert wait.is_over and wait.left == 0 and str(wait) == "10 s of 10 s"
