"""The messages of the rendezvous: one JSON object in a line, of one of three forms.

```text
{"worker": 1, "handshake": {"tensorflow version": "2.21.0", …}, "seal": "…"}
{"worker": 1, "ready": true, "seal": "…"}
{"worker": 1, "gave_up": "Worker 1 waited 300 s for …", "seal": "…"}
```

The seal is there where the workers share a token: the HMAC of the rest under it, so that a stranger who can connect can
neither make a message nor learn the token. Whoever reads the traffic can repeat messages.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

__all__: list[str] = []


class NoMessageError(Exception):
    """A line is no message of another worker's; the text says why."""


class Messages:
    """Writes and reads messages.

    Args:
        worker: This worker's index.
        workers: How many there are.
        token: What all of them know and nobody else; empty for none.
    """

    def __init__(self, worker: int, workers: int, token: str) -> None:
        self._worker = worker
        self._workers = workers
        self._token = os.fsencode(token)

    def write(self, message: Mapping[str, Any]) -> bytes:
        """Return the line that says something to another worker."""
        whole = {"worker": self._worker, **message}
        return sealed_line(whole, self._token)

    def read(self, line: bytes) -> dict[str, Any]:
        """Return what another worker says.

        Raises:
            NoMessageError: None does, or none that has the token.
        """
        if not line:
            raise NoMessageError("it hung up, as a worker with another KPARALLEL_TOKEN does")
        message = object_in(line)
        if message is None or not self._is_of_a_form(message):
            raise NoMessageError(f"it says {line[:40]!r}, which is no message of kparallel's")
        seal = message.pop("seal", "")
        # A missing token is told apart from another one, as the two mistakes have different remedies.
        if bool(seal) != bool(self._token):
            who = "this worker" if seal else "it"
            raise NoMessageError(f"{who} has no token: set KPARALLEL_TOKEN to the same text on all workers, or on none")
        if not is_sealed(message, seal, self._token):
            raise NoMessageError("it has another token: set KPARALLEL_TOKEN to the same text on all workers")
        return message

    def _is_of_a_form(self, message: dict[str, Any]) -> bool:
        worker, seal = message.get("worker"), message.get("seal", "")
        rest = {key: value for key, value in message.items() if key not in ("worker", "seal")}
        # Not `isinstance`: JSON's true would be worker 1.
        named = type(worker) is int and 0 <= worker < self._workers and worker != self._worker
        if not named or len(rest) != 1 or not isinstance(seal, str) or not seal.isascii():
            return False
        ((kind, value),) = rest.items()
        if kind == "handshake":
            return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        return value is True if kind == "ready" else kind == "gave_up" and isinstance(value, str)


def sealed_line(message: Mapping[str, Any], token: bytes) -> bytes:
    """Return the line that says something, with a seal if there is a token."""
    return json.dumps({**message, **({"seal": seal_of(message, token)} if token else {})}).encode() + b"\n"


def object_in(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line, None if there is none."""
    try:
        message = json.loads(line)
    # A stranger may send anything, also JSON that is nested more deeply than Python's stack.
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def is_sealed(message: Mapping[str, Any], seal: Any, token: bytes) -> bool:
    """Tell whether a seal is that of a message, which without a token is the empty text.

    In constant time, so that a stranger cannot find the seal byte by byte from how long a refusal takes.
    """
    expected = seal_of(message, token) if token else ""
    return isinstance(seal, str) and seal.isascii() and hmac.compare_digest(seal, expected)


def seal_of(message: Mapping[str, Any], token: bytes) -> str:
    """Return the HMAC of a message, which only who knows the token can make."""
    # One text for each message, whatever the order in which its keys were written.
    text = json.dumps(message, sort_keys=True, separators=(",", ":"))
    return hmac.new(token, text.encode(), hashlib.sha256).hexdigest()
