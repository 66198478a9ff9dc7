"""The workers' output, line by line, each with its worker's index."""

import asyncio
from typing import TextIO

__all__: list[str] = []


async def relay(source: asyncio.StreamReader, target: TextIO, prefix: str) -> None:
    """Copy a stream in whole lines, so that workers' lines do not mix.

    Args:
        source: What a worker writes.
        target: Where it goes.
        prefix: What stands before each line.
    """
    rest = b""
    while block := await source.read(1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        _write(target, prefix, lines)
    if rest:
        _write(target, prefix, [rest])


def _write(target: TextIO, prefix: str, lines: list[bytes]) -> None:
    text = "".join(f"{prefix}{line.decode(errors='replace')}\n" for line in lines)
    target.write(text)
    target.flush()
