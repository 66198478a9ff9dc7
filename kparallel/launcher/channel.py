"""Messages between launchers: JSON, one object in a line, with a seal where they share a token.

Both ends say now and then that they are there: a machine's system answers for a launcher that is frozen, as by a paused
container, so that only silence tells of it.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kparallel.handshake import NoMessageError, is_sealed, object_in, sealed_line

__all__: list[str] = []

LONGEST = 1 << 20  # Bytes of a message.
_PROBES = 3
_HERE = {"here": True}


class Channel:
    """A connection between two launchers.

    Args:
        reader: Its reader.
        writer: Its writer.
        token: What all launchers know and nobody else; empty for none.
        silence: Seconds after which the other end is lost if it says nothing.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str, silence: float) -> None:
        self._reader = reader
        self._writer = writer
        self._token = os.fsencode(token)
        self._silence = silence
        self.was_there = False  # Whether the other end has said that it is there: it takes part.
        _probe(writer.get_extra_info("socket"), max(1, int(silence / (_PROBES + 1))))

    @property
    def peer(self) -> str:
        """The other machine's address."""
        return str((self._writer.get_extra_info("peername") or ("an unknown host",))[0])

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one that cannot arrive is lost, as the other's answer will show."""
        with contextlib.suppress(OSError):
            self._writer.write(sealed_line(message, self._token))

    @contextlib.asynccontextmanager
    async def taking_part(self) -> AsyncIterator[None]:
        """Say that this end is there, as long as the context lasts."""

        async def say() -> None:
            while True:
                self.send(_HERE)
                await asyncio.sleep(self._silence / (_PROBES + 1))

        saying = asyncio.create_task(say())
        try:
            yield
        finally:
            saying.cancel()

    async def read(self) -> dict[str, Any] | None:
        """Return the next message, or None where the other is gone, or silent for too long.

        Raises:
            NoMessageError: What comes is no message of a launcher's that has the token.
        """
        while (message := await self._read()) == _HERE:
            self.was_there = True
        return message

    async def _read(self) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(self._silence):  # `wait_for` may swallow a cancellation.
                line = await self._reader.readline()
        except (TimeoutError, OSError):
            return None
        except ValueError as error:
            raise NoMessageError("it sends a line without an end") from error
        # The connection ended within a line.
        if not line.endswith(b"\n"):
            return None
        message = object_in(line)
        if message is None:
            raise NoMessageError(f"it says {line[:40]!r}, which is no message of kparallel's")
        seal = message.pop("seal", "")
        if not is_sealed(message, seal, self._token):
            raise NoMessageError("it has another KPARALLEL_TOKEN: set the same on all hosts, or none")
        return message

    async def close(self) -> None:
        """Send what is left, and hang up."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.drain(), 1)
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 1)


def _probe(connection: socket.socket, seconds: int) -> None:
    """Let the system ask the other machine now and then whether it is there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", seconds), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
