"""A checkpoint is written while training goes on."""

import threading

from kparallel.checkpoint.writer import Writer


def test_it_writes_in_the_background_and_one_thing_after_another(tmp_path):
    writer, go, written = Writer(tmp_path), threading.Event(), []
    writer.begin(lambda: go.wait(20) and written.append(1))
    assert writer.is_busy and written == []
    go.set()
    writer.begin(lambda: written.append(2))
    writer.wait()
    assert written == [1, 2] and not writer.is_busy


def test_an_error_is_returned_once_and_later_writes_go_on(tmp_path):
    def fails():
        raise OSError("disk full")

    writer, written = Writer(tmp_path), []
    writer.begin(fails)
    writer.wait()
    assert str(writer.failure()) == "disk full" and writer.failure() is None
    writer.begin(lambda: written.append(1))
    writer.wait()
    assert written == [1]


def test_another_writer_of_the_directory_is_waited_for(tmp_path):
    go, written = threading.Event(), []
    Writer(tmp_path).begin(lambda: go.wait(20) and written.append(1))
    threading.Timer(0.05, go.set).start()
    Writer(tmp_path).wait_for_all()
    assert written == [1]
