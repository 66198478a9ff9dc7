"""The connections between workers over which columns of CPUs sum: made once for each process, kept for all models."""

import socket
import warnings
from collections.abc import Callable
from dataclasses import asdict

from kparallel.cluster import Cluster
from kparallel.comm.endpoint import Endpoint, Pair, connect_ring, listen
from kparallel.comm.group import WorkerGroup
from kparallel.comm.liveness import LivenessProbe
from kparallel.comm.neighbors import RingPosition
from kparallel.comm.ring import Ring
from kparallel.errors import WorkerError

__all__: list[str] = []

Listen = Callable[[Cluster], tuple[socket.socket, Endpoint]]


class PeerConnections:
    """This worker's rings.

    Args:
        cluster: The workers.
        heartbeat: Seconds without a sign of life after which a worker is lost.
        listen: Listens for the previous worker; `OSError` says why it cannot.
        attempts: How often the workers try to connect.
    """

    def __init__(self, cluster: Cluster, heartbeat: float, listen: Listen = listen, attempts: int = 3) -> None:
        self._cluster = cluster
        self._listen = listen
        self._attempts = attempts
        self._rings: list[Ring] = []
        self._refused = False
        self._liveness = LivenessProbe(cluster, heartbeat)

    def rings(self, number: int, group: WorkerGroup) -> list[Ring] | None:
        """Return a number of rings, or None where workers cannot connect. All workers make the same call.

        Args:
            number: How many columns there are.
            group: How the workers tell one another where they listen.
        """
        # A model with more columns than any before it needs more rings; those that exist are used again.
        missing = number - len(self._rings)
        if missing > 0 and not self._refused:
            self._connect(missing, group)
        return None if self._refused else self._rings[:number]

    def renew(self, group: WorkerGroup) -> None:
        """Connect anew if a step has failed on any worker. All workers make the same call.

        Args:
            group: How the workers tell one another.
        """
        # A worker that had no failure of its own takes part as well: its connections lead to one that had.
        if not self._rings or not any(group.exchange("calls fit, evaluate or predict", self._is_aborted())):
            return
        for ring in self._rings:
            ring.abort()
        pairs = self._pairs(len(self._rings), group)
        if isinstance(pairs, str):
            raise WorkerError(
                f"A step failed, and the workers cannot connect anew after it ({pairs}). Start all workers again."
            )
        for ring, pair in zip(self._rings, pairs, strict=True):
            ring.renew(*pair)

    def close(self) -> None:
        """Leave all rings, and free their sockets."""
        for ring in self._rings:
            ring.close()

    def _is_aborted(self) -> bool:
        return any(ring.is_aborted for ring in self._rings)

    def _connect(self, number: int, group: WorkerGroup) -> None:
        """Make rings that all workers are part of, or none."""
        pairs = self._pairs(number, group)
        if not isinstance(pairs, str):
            position = RingPosition(self._cluster.index, len(self._cluster.workers), self._liveness.frozen)
            self._rings += [Ring(position, *pair) for pair in pairs]
            return
        # For good, on all workers at once: the reason is equal on all of them, and so is which collectives a step
        # uses.
        self._refused = True
        warnings.warn(
            f"Workers cannot connect to one another ({pairs}), so TensorFlow's own collectives carry the gradients, "
            "which takes more time. Let the workers' hosts reach one another on all ports.",
            stacklevel=2,
        )

    def _pairs(self, number: int, group: WorkerGroup) -> list[Pair] | str:
        """Return this worker's connections for each ring, or why workers cannot connect, equal on all of them.

        The cause may pass, so they try several times.
        """
        found = ""
        for _ in range(self._attempts):
            pairs, error_text = self._attempt(number, group)
            errors = group.exchange("has tried to connect to the others", error_text)
            if not any(errors):
                return pairs
            # This worker has connected, and another one has not. A ring needs all.
            for end in (end for pair in pairs for end in pair):
                end.close()
            found = "; ".join(f"worker {index}: {text}" for index, text in enumerate(errors) if text)
        return found

    def _attempt(self, number: int, group: WorkerGroup) -> tuple[list[Pair], str]:
        """Return this worker's connections for each ring, and why it cannot connect; one of the two is empty."""
        try:
            listener, endpoint = self._listen(self._cluster)
        except OSError as error:
            # The others wait in this collective, whatever happened here.
            _all_endpoints(group, None)
            return [], str(error)
        with listener:
            endpoints = _all_endpoints(group, endpoint)
            try:
                return (connect_ring(listener, endpoints, self._cluster.index, number) if endpoints else []), ""
            except OSError as error:
                return [], str(error)


def connect_pair(
    cluster: Cluster, first: int, second: int, group: WorkerGroup, listen: Listen = listen
) -> Pair | str | None:
    """Connect two workers, each to the other. All workers make the same call.

    Args:
        cluster: The workers.
        first: The index of one.
        second: The index of the other.
        group: How the workers tell one another where they listen.
        listen: Listens for the other one; `OSError` says why it cannot.

    Returns:
        The connection to the other one and that from it, or why they cannot connect; None on all other workers.
    """
    doing = "measures links"
    if cluster.index not in (first, second):
        # The two exchange their endpoints by a collective of all workers, in which the others have nothing to say.
        group.exchange(doing, None)
        return None
    try:
        listener, endpoint = listen(cluster)
    except OSError as error:
        group.exchange(doing, None)
        return str(error)
    with listener:
        told = group.exchange(doing, asdict(endpoint))
        ends = [told[index] for index in (first, second)]
        if None in ends:
            return f"worker {(first, second)[ends.index(None)]} cannot listen"
        try:
            return connect_ring(listener, [Endpoint(**end) for end in ends], int(cluster.index == second), 1)[0]
        except OSError as error:
            return str(error)


def _all_endpoints(group: WorkerGroup, endpoint: Endpoint | None) -> list[Endpoint]:
    """Return every worker's endpoint, or nothing if one has none."""
    told = group.exchange("connects to the others", endpoint and asdict(endpoint))
    return [Endpoint(**fields) for fields in told] if all(told) else []
