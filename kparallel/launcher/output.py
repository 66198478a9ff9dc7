"""The workers' output, line by line, each with its worker's index.

A thread copies each stream of a worker, so that no reader of the launcher's own output, however slow, keeps the
launcher from hearing signals or from noticing that a worker has ended:

```text
    worker 0 ──pipe──► Relay "[0] " ─┐
                                     ├──► Outlet ──► the launcher's stdout
    worker 1 ──pipe──► Relay "[1] " ─┘
```
"""

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

__all__: list[str] = []

_BLOCK = 1 << 16
_LONGEST = 1 << 26  # Bytes of a line; a longer one is broken, so that no worker can fill the launcher's memory.
# Bytes that are still read once the worker has ended: what a pipe holds at most. A process that the worker left behind
# may go on writing for ever.
_LEFT = 1 << 20


class Outlet:
    """One of the launcher's streams, to which relays write in turn.

    Where it cannot be written, because its reader has gone or a disk is full, what comes is dropped: the workers train
    on.

    Args:
        stream: The stream, or None where it was closed when the launcher started.
        failed: Called once, in a relay's thread, with the error that ended the writing.
    """

    def __init__(self, stream: TextIO | None, failed: Callable[[OSError], None]) -> None:
        if stream is not None:
            stream.flush()
        self._descriptor = None if stream is None else stream.fileno()
        self._failed = failed
        self._turn = threading.Lock()
        self._unfinished: object = None  # Whose progress line stands at the end, to be overwritten.

    def write(self, owner: object, pieces: Sequence[bytes]) -> None:
        """Write pieces that each end a line, by a newline, or return to its begin.

        Args:
            owner: Whose they are.
            pieces: Each with its end.
        """
        with self._turn:
            if self._descriptor is None or not pieces:
                return
            # Another worker's line would leave the end of a longer progress line standing.
            # worker 0 has written    "[0] 12/30 ====>\r"      a progress line, to be overwritten by its next one
            # worker 1 writes         "[1] warning\n"          goes to a new line first
            begin = b"\n" if self._unfinished not in (None, owner) and pieces[0].endswith(b"\n") else b""
            self._unfinished = None if pieces[-1].endswith(b"\n") else owner
            try:
                _write_all(self._descriptor, begin + b"".join(pieces))
            except OSError as error:
                self._descriptor = None
                self._failed(error)


class Relay:
    """A pipe from one of a worker's streams to one of the launcher's, in whole lines, so that they do not mix.

    Args:
        outlet: Where the lines go.
        prefix: What stands before each line.
    """

    def __init__(self, outlet: Outlet, prefix: str) -> None:
        self._outlet = outlet
        self._prefix = prefix.encode()
        self._pending: list[bytes] = []
        self._held = 0
        self._read, self.source = os.pipe()
        self._over, self._end = os.pipe()
        self._copied = asyncio.Event()

    def start(self) -> None:
        """Begin, once the worker's process holds the pipe's source."""
        os.close(self.source)
        arguments = (asyncio.get_running_loop(),)
        threading.Thread(target=self._copy, args=arguments, name="kparallel-relay", daemon=True).start()

    def end(self) -> None:
        """Say that the worker has ended: what it left in the pipe is copied, and then no more is waited for."""
        os.close(self._end)

    async def copied(self) -> None:
        """Wait until all is copied."""
        await self._copied.wait()

    def _copy(self, loop: asyncio.AbstractEventLoop) -> None:
        ready = select.poll()
        ready.register(self._read, select.POLLIN)
        ready.register(self._over, select.POLLIN)
        left = _LEFT
        while left > 0:
            events = dict(ready.poll())
            if self._read not in events:
                break  # The worker has ended, and the pipe is empty.
            block = os.read(self._read, _BLOCK)
            if not block:
                break
            self._take(block)
            # The worker has ended; a process that it left behind may hold the pipe open.
            if self._over in events:
                left -= len(block)
        if self._held:
            self._outlet.write(self, [self._prefix + b"".join(self._pending).rstrip(b"\r") + b"\n"])
        for descriptor in (self._read, self._over):
            os.close(descriptor)
        with contextlib.suppress(RuntimeError):  # The launcher waits no longer.
            loop.call_soon_threadsafe(self._copied.set)

    def _take(self, block: bytes) -> None:
        """Write the lines that a block ends.

        A carriage return ends one too, so that a progress bar is shown while it grows; at the very end it waits, as it
        may be half of a line's end.
        """
        self._pending.append(block)
        self._held += len(block)
        if b"\n" not in block and b"\r" not in block and self._held < _LONGEST:
            return
        pieces = b"".join(self._pending).splitlines(keepends=True)
        rest = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        if len(rest) >= _LONGEST:
            pieces, rest = [*pieces, rest + b"\n"], b""
        self._pending, self._held = [rest], len(rest)
        self._outlet.write(self, [self._prefix + piece for piece in pieces if piece != b"\r"])


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # Whoever shares the terminal or pipe may have made it so.
            select.select([], [descriptor], [])
