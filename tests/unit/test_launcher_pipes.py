"""What a worker and its launcher tell each other."""

import json
import os

import pytest

from kparallel.launcher_pipes import leave_is_asked, report_checkpoint, send_to_launcher


@pytest.fixture
def pipe(monkeypatch):
    """Return a function that makes a pipe and names one of its ends to this process, as to a worker."""
    opened = []

    def make(name, given):
        ends = os.pipe()
        opened.extend(ends)
        monkeypatch.setenv("KPARALLEL_LAUNCHER", str(os.getppid()))
        monkeypatch.setenv(name, str(ends[given]))
        return ends[1 - given]

    yield make
    for descriptor in opened:
        os.close(descriptor)


def test_reports_are_lines_of_json(pipe):
    reading = pipe("KPARALLEL_REPORT", 1)
    report_checkpoint("written", 2, 30)
    send_to_launcher({"traceback": "two\nlines"})
    lines = os.read(reading, 9999).decode().splitlines()
    assert list(map(json.loads, lines)) == [
        {"checkpoint": "written", "epoch": 2, "step": 30},
        {"traceback": "two\nlines"},
    ]


def test_a_byte_asks_to_leave(pipe):
    writing = pipe("KPARALLEL_LEAVE", 0)
    assert not leave_is_asked()
    os.write(writing, b".")
    assert leave_is_asked() and leave_is_asked()


def test_a_child_of_a_worker_neither_reports_nor_leaves(pipe, monkeypatch):
    reading, writing = pipe("KPARALLEL_REPORT", 1), pipe("KPARALLEL_LEAVE", 0)
    monkeypatch.setenv("KPARALLEL_LAUNCHER", str(os.getppid() + 1))
    os.write(writing, b".")
    send_to_launcher({"checkpoint": "written"})
    assert not leave_is_asked()
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)


def test_without_a_launcher_nothing_is_said(monkeypatch):
    monkeypatch.delenv("KPARALLEL_LAUNCHER", raising=False)
    send_to_launcher({"checkpoint": "written"})
    assert not leave_is_asked()
