"""The workers' output: whole lines, each with its worker's index."""

import asyncio
import os

import pytest

from kparallel.launcher.output import Outlet, Relay


class Written:
    """A stream whose bytes can be read again."""

    def __init__(self):
        self.reading, writing = os.pipe()
        self.stream = os.fdopen(writing, "w")
        self.failures = []
        self.outlet = Outlet(self.stream, self.failures.append)

    def close(self):
        self.stream.close()
        with os.fdopen(self.reading, "rb") as stream:
            return stream.read()


def relayed(*blocks, prefix="[1] "):
    """Return what comes of blocks that a worker writes."""

    async def run():
        written = Written()
        relay = Relay(written.outlet, prefix)
        source = os.dup(relay.source)
        relay.start()
        for block in blocks:
            os.write(source, block)
        os.close(source)
        relay.end()
        await relay.copied()
        return written.close()

    return asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([b"one\ntwo\n"], b"[1] one\n[1] two\n"),
        ([b"o", b"ne\nt", b"wo"], b"[1] one\n[1] two\n"),
        ([b"1/3\r2/3\r", b"3/3\n"], b"[1] 1/3\r[1] 2/3\r[1] 3/3\n"),
        ([b"one\r\n"], b"[1] one\r\n"),
        ([], b""),
        (["läuft\n".encode()], "[1] läuft\n".encode()),
    ],
)
def test_lines_get_a_prefix(blocks, expected):
    assert relayed(*blocks) == expected


def test_another_workers_line_does_not_stand_on_a_progress_line():
    written = Written()
    written.outlet.write("a", [b"[0] 1/3\r"])
    written.outlet.write("b", [b"[1] done\n"])
    written.outlet.write("a", [b"[0] 2/3\r"])
    written.outlet.write("a", [b"[0] 3/3\n"])
    assert written.close() == b"[0] 1/3\r\n[1] done\n[0] 2/3\r[0] 3/3\n"


def test_without_a_reader_the_rest_is_dropped_and_said_once():
    written = Written()
    os.close(written.reading)
    for _ in range(3):
        written.outlet.write("a", [b"line\n"])
    assert [type(error) for error in written.failures] == [BrokenPipeError]
    written.stream.close()


def test_a_closed_stream_takes_nothing():
    Outlet(None, pytest.fail).write("a", [b"line\n"])
