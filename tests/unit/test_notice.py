"""SIGTERM while training runs, and the launcher's request to leave."""

import os
import signal
import threading

import pytest

from kparallel.resume.notice import RESIZE, SIGTERM, Notice, notices_end


@pytest.fixture(autouse=True)
def plain_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_notice_is_heard_while_training_runs_and_sigterm_is_plain_behind_it():
    before = signal.getsignal(signal.SIGTERM)
    notice = Notice()
    notice.listen()
    assert notice.reason == ""
    notice.stop()
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_is_plain_behind_a_fit_that_has_failed():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError), notices_end():
        Notice().listen()
        raise ValueError
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_notice_that_came_too_late_for_one_fit_ends_the_next():
    first, second = Notice(), Notice()
    first.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    first.stop()
    os.kill(os.getpid(), signal.SIGTERM)  # What follows on the fit may finish.
    second.listen()
    assert first.reason == second.reason == SIGTERM


def test_the_launchers_request_is_heard_by_its_own_worker_alone(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setenv("KPARALLEL_LEAVE", str(read))
    monkeypatch.setenv("KPARALLEL_LAUNCHER", str(os.getppid()))
    notice = Notice()
    notice.listen()
    assert notice.reason == ""
    os.write(write, b".")
    assert notice.reason == notice.reason == RESIZE
    monkeypatch.setenv("KPARALLEL_LAUNCHER", str(os.getpid()))
    assert notice.reason == ""
    monkeypatch.setenv("KPARALLEL_LAUNCHER", str(os.getppid()))
    notice.stop()
    assert notice.reason == ""  # Where nobody listens, the chief's callback leaves it to the workers' agreement.
    for descriptor in (read, write):
        os.close(descriptor)


def test_a_thread_that_takes_no_signals_leaves_them_alone():
    before, notice = signal.getsignal(signal.SIGTERM), Notice()
    thread = threading.Thread(target=notice.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
