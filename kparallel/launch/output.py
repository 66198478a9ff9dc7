"""The workers' output, line by line, each with its worker's index."""

import asyncio
import os
from typing import TextIO

__all__: list[str] = []


class Relay:
    """A pipe from one of a worker's streams to one of the launcher's, in whole lines, so that they do not mix.

    The pipe is the launcher's own: asyncio would take a worker for alive as long as a process that it left behind
    holds a pipe of asyncio's.

    Args:
        target: Where the lines go.
        prefix: What stands before each line.
    """

    def __init__(self, target: TextIO, prefix: str) -> None:
        self._target = target
        self._prefix = prefix
        self._read, self.source = os.pipe()

    async def start(self) -> None:
        """Begin, once the worker's process holds the pipe's source."""
        os.close(self.source)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        self._pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._read, "rb", buffering=0)
        )
        self._task = asyncio.create_task(self._copy(reader))

    async def end(self) -> None:
        """Copy what is left, once the worker's processes have ended."""
        await self._task
        self._pipe.close()

    async def _copy(self, source: asyncio.StreamReader) -> None:
        rest = b""
        while block := await source.read(1 << 16):
            *lines, rest = (rest + block).split(b"\n")
            self._write(lines)
        if rest:
            self._write([rest])

    def _write(self, lines: list[bytes]) -> None:
        self._target.write("".join(f"{self._prefix}{line.decode(errors='replace')}\n" for line in lines))
        self._target.flush()
