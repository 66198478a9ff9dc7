"""Messages between launchers: JSON, one object in a line, with a seal where they share a token."""

import asyncio
import contextlib
import hmac
import json
import socket
from collections.abc import Mapping
from typing import Any

from kparallel.handshake import NoMessageError, seal_of

__all__: list[str] = []

LONGEST = 1 << 20  # Bytes of a message.
_PROBES = 3


class Channel:
    """A connection between two launchers.

    Args:
        reader: Its reader.
        writer: Its writer.
        token: What all launchers know and nobody else; empty for none.
        silence: Seconds after which the system takes a machine for lost that does not answer any more.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str, silence: float) -> None:
        self._reader = reader
        self._writer = writer
        self._token = token.encode()
        _probe(writer.get_extra_info("socket"), max(1, int(silence / (_PROBES + 1))))

    @property
    def peer(self) -> str:
        """The other machine's address."""
        return str((self._writer.get_extra_info("peername") or ("an unknown host",))[0])

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one that cannot arrive is lost, as the other's answer will show."""
        seal = {"seal": seal_of(message, self._token)} if self._token else {}
        with contextlib.suppress(OSError):
            self._writer.write(json.dumps({**message, **seal}).encode() + b"\n")

    async def read(self) -> dict[str, Any] | None:
        """Return the next message, or None where the other is gone.

        Raises:
            NoMessageError: What comes is no message of a launcher's that has the token.
        """
        try:
            line = await self._reader.readline()
        except OSError:
            return None
        except ValueError as error:
            raise NoMessageError("it sends a line without an end") from error
        # The connection ended within a line.
        if not line.endswith(b"\n"):
            return None
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise NoMessageError(f"it says {line[:40]!r}, which is no message of kparallel's")
        seal = message.pop("seal", "")
        expected = seal_of(message, self._token) if self._token else ""
        if not isinstance(seal, str) or not seal.isascii() or not hmac.compare_digest(seal, expected):
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
