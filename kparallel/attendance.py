"""Who has come to the rendezvous, as one worker sees it: workers and strangers; and how long it waits for the others.

```text
                 this worker reaches it     it greets this worker     it has met all
    peer         unreached ─► reached       unheard ─► heard          unready ─► ready
```
"""

import time
from collections.abc import Mapping

from kparallel.cluster import Cluster

__all__: list[str] = []

DIFFERENCE = "Expected the same "  # How a text begins that names what workers disagree on.
_TOLD = 5  # Dropped connections of which a line tells; a scan of ports may make many.


class Attendance:
    """The other workers' states; nothing of the network.

    Args:
        cluster: The workers.
        handshake: Name and text of what must be equal on all workers.
    """

    def __init__(self, cluster: Cluster, handshake: Mapping[str, str]) -> None:
        self._cluster = cluster
        self._handshakes = {cluster.index: handshake}
        peers = {index for index in range(len(cluster.workers)) if index != cluster.index}
        self.unreached = set(peers)
        self.unheard = set(peers)
        self.unready = set(peers)
        self._strange: dict[int, str] = {}

    @property
    def is_complete(self) -> bool:
        """Whether this worker has greeted all and was greeted by all."""
        return not self.unreached and not self.unheard

    def reached(self, peer: int, handshake: Mapping[str, str]) -> None:
        """Note a peer that answered this worker's handshake with its own."""
        self._handshakes[peer] = handshake
        self._strange.pop(peer, None)
        self.unreached.discard(peer)

    def heard(self, peer: int, handshake: Mapping[str, str]) -> bool:
        """Note a peer that greets this worker; False where it comes too late, having been ready before."""
        # A peer that was ready has closed its side, as may all the others. Whoever comes after that belongs to another
        # start.
        if peer not in self.unheard | self.unready:
            return False
        self._handshakes[peer] = handshake
        self.unheard.discard(peer)
        return True

    def ready(self, peer: int) -> None:
        """Note a peer that has met all workers."""
        self.unready.discard(peer)

    def hung_up(self, peer: int) -> None:
        """Note a peer that went away before it was ready: it may come again, restarted."""
        # Both directions begin anew: the process that comes next knows nothing of this one.
        self.unheard.add(peer)
        self.unreached.add(peer)

    def strange(self, peer: int, reason: str) -> None:
        """Note in words what answers in a peer's place; the empty text where nothing does."""
        self._strange[peer] = reason

    def difference(self) -> str:
        """Return in words what the workers met so far disagree on, or the empty text."""
        # Compared over those who have come so far, so that a wait for the others already tells of a difference.
        for name, own in self._handshakes[self._cluster.index].items():
            texts = {index: handshake.get(name) for index, handshake in sorted(self._handshakes.items())}
            if any(text != own for text in texts.values()):
                listed = ", ".join(f"worker {index}: {text}" for index, text in texts.items())
                return (
                    f"{DIFFERENCE}{name} on all workers, received {listed}. Start every worker with the same "
                    "packages and addresses."
                )
        return ""

    def missing(self) -> str:
        """Return in words for whom this worker still waits."""
        texts = []
        for peer in sorted(self.unreached | self.unheard or self.unready):
            # The most telling text wins: who answers in the peer's place; nothing, where the peer is not reached; that
            # it does not reach this worker; that it waits for others.
            state = "" if peer in self.unreached else "it cannot reach this worker yet"
            state = state if peer in self.unheard else "it still waits for others"
            state = self._strange.get(peer) or ("" if peer in self.unreached else state)
            texts.append(f"worker {peer} ({self._cluster.workers[peer]}{': ' + state if state else ''})")
        return ", ".join(texts)


class Strangers:
    """Connections that were dropped, because what came over them is no message of another worker's."""

    def __init__(self) -> None:
        self._number = 0
        self._last = ""

    def drop(self, host: str, reason: str) -> bool:
        """Note a connection; return whether a line is to tell of it."""
        self._number += 1
        self._last = f"{host}: {reason}"
        return self._number <= _TOLD

    def __str__(self) -> str:
        return f" Connections that were dropped: {self._number}, the last from {self._last}." if self._number else ""


class Wait:
    """How long a worker waits for the others, and when it tells of it; from the moment on at which it is made.

    Args:
        timeout: Seconds until it gives up.
        interval: Seconds from one line to the next.
    """

    def __init__(self, timeout: float, interval: float) -> None:
        self.timeout = timeout
        self._interval = interval
        self._start = self._told = time.monotonic()

    @property
    def left(self) -> float:
        """The seconds until it gives up."""
        return self._start + self.timeout - time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether it gives up."""
        return self.left <= 0

    def is_to_be_told(self) -> bool:
        """Return whether it is time for a line, and count it as told."""
        is_due = time.monotonic() - self._told >= self._interval
        self._told = time.monotonic() if is_due else self._told
        return is_due

    def __str__(self) -> str:
        return f"{self.timeout - self.left:.0f} s of {self.timeout:g} s"
