"""SIGTERM is noted while training runs, and does what it did before afterwards."""

import signal
import threading

from kparallel.resume.notice import Notice


def test_a_signal_is_noted_while_it_listens():
    before = signal.getsignal(signal.SIGTERM)
    notice = Notice()
    notice.listen()
    notice.listen()
    try:
        assert not notice.is_given
        signal.raise_signal(signal.SIGTERM)
        assert notice.is_given
    finally:
        notice.stop()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_that_takes_no_signals_leaves_them_alone():
    before, notice = signal.getsignal(signal.SIGTERM), Notice()
    thread = threading.Thread(target=notice.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
