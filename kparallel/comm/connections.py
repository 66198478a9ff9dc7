"""The connections between workers over which columns of CPUs sum: made once for each process, kept for all models."""

import contextlib
import hmac
import json
import secrets
import selectors
import socket
import sys
import time
import warnings
from dataclasses import asdict, dataclass

from kparallel.cluster import Cluster, host_and_port
from kparallel.comm.group import WorkerGroup
from kparallel.comm.liveness import LivenessProbe
from kparallel.comm.ring import Ring
from kparallel.errors import WorkerError

__all__: list[str] = []

_TIMEOUT = 15.0  # Seconds; all workers are there, and connect at the same time.
_ATTEMPTS = 3
_TOKEN = 16
_BACKLOG = 1024
_BUFFER = 2**20  # Bytes; of what a socket between processes of one host takes at once.

Pair = tuple[socket.socket, socket.socket]


@dataclass(frozen=True)
class Endpoint:
    """Where a worker takes its neighbour's connections.

    Args:
        host: Its host, or the empty text for a socket between processes of one host.
        name: Its port, or the socket's name.
        token: What a neighbour says, in hexadecimal; nobody else knows it.
    """

    host: str
    name: str
    token: str

    def connect(self, ring: int) -> socket.socket:
        """Connect for one ring."""
        if self.host:
            end = socket.create_connection((self.host, int(self.name)), _TIMEOUT)
        else:
            end = socket.socket(socket.AF_UNIX)
            end.connect("\0" + self.name)
        end.sendall(bytes.fromhex(self.token) + ring.to_bytes(4, "big"))
        return _configured(end)


class PeerConnections:
    """This worker's rings.

    Args:
        cluster: The workers.
        heartbeat: Seconds without a sign of life after which a worker is lost.
    """

    def __init__(self, cluster: Cluster, heartbeat: float) -> None:
        self._cluster = cluster
        self._rings: list[Ring] = []
        self._refused = False
        self._liveness = LivenessProbe(cluster, heartbeat)

    def rings(self, number: int, group: WorkerGroup) -> list[Ring] | None:
        """Return so many rings, or None where workers cannot connect; all workers call it alike.

        Args:
            number: How many columns there are.
            group: How the workers tell one another where they listen.
        """
        missing = number - len(self._rings)
        if missing > 0 and not self._refused:
            self._connect(missing, group)
        return None if self._refused else self._rings[:number]

    def renew(self, group: WorkerGroup) -> None:
        """Connect anew after a step that failed, if one has on any worker; all workers call it alike.

        Args:
            group: How the workers tell one another.
        """
        if not self._rings or not any(
            json.loads(left) for left in group.all_gather_text(json.dumps(self._is_aborted()))
        ):
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

    def _is_aborted(self) -> bool:
        return any(ring.is_aborted for ring in self._rings)

    def _connect(self, number: int, group: WorkerGroup) -> None:
        """Make rings that all workers are part of, or none."""
        pairs = self._pairs(number, group)
        if not isinstance(pairs, str):
            workers = len(self._cluster.workers)
            self._rings += [Ring(self._cluster.index, workers, *pair, self._liveness.frozen) for pair in pairs]
            return
        self._refused = True
        warnings.warn(
            f"Workers cannot connect to one another ({pairs}), so TensorFlow's own collectives carry the gradients, "
            "which takes more time. Let the workers' hosts reach one another on all ports.",
            stacklevel=2,
        )

    def _pairs(self, number: int, group: WorkerGroup) -> list[Pair] | str:
        """Return this worker's connections for each ring, or in words what keeps workers from them, on all alike.

        It may pass, so they try again.
        """
        found = ""
        for _ in range(_ATTEMPTS):
            pairs, error_text = self._attempt(number, group)
            errors = group.all_gather_text(error_text)
            if not any(errors):
                return pairs
            for end in (end for pair in pairs for end in pair):
                end.close()
            found = "; ".join(f"worker {index}: {text}" for index, text in enumerate(errors) if text)
        return found

    def _attempt(self, number: int, group: WorkerGroup) -> tuple[list[Pair], str]:
        """Return for each ring this worker's connections, or what keeps it from them."""
        try:
            listener, endpoint = _listen(self._cluster)
        except OSError as error:
            _all_endpoints(group, None)
            return [], str(error)
        with listener:
            endpoints = _all_endpoints(group, endpoint)
            try:
                return (_handshake(listener, endpoints, self._cluster.index, number) if endpoints else []), ""
            except OSError as error:
                return [], str(error)


def connect_pair(cluster: Cluster, first: int, second: int, group: WorkerGroup) -> Pair | str | None:
    """Connect two workers, each to the other; all workers call it alike.

    Args:
        cluster: The workers.
        first: The index of one.
        second: The index of the other.
        group: How the workers tell one another where they listen.

    Returns:
        The connection to the other one and that from it, or in words what keeps them apart; None on all other workers.
    """
    nothing = json.dumps(None)
    if cluster.index not in (first, second):
        group.all_gather_text(nothing)
        return None
    try:
        listener, endpoint = _listen(cluster)
    except OSError as error:
        group.all_gather_text(nothing)
        return str(error)
    with listener:
        told = group.all_gather_text(json.dumps(asdict(endpoint)))
        ends = [json.loads(told[index]) for index in (first, second)]
        if None in ends:
            return f"worker {(first, second)[ends.index(None)]} cannot listen"
        try:
            return _handshake(listener, [Endpoint(**end) for end in ends], int(cluster.index == second), 1)[0]
        except OSError as error:
            return str(error)


def _all_endpoints(group: WorkerGroup, endpoint: Endpoint | None) -> list[Endpoint]:
    """Return every worker's endpoint, or nothing if one has none."""
    told = [json.loads(answer) for answer in group.all_gather_text(json.dumps(endpoint and asdict(endpoint)))]
    return [Endpoint(**fields) for fields in told] if all(told) else []


def _listen(cluster: Cluster) -> tuple[socket.socket, Endpoint]:
    token = secrets.token_hex(_TOKEN)
    hosts = {address.rpartition(":")[0] for address in cluster.workers}
    host, _ = host_and_port(cluster.address)
    if len(hosts) == 1 and sys.platform == "linux":
        # Linux's abstract names belong to a host, need no file, and take a quarter less time than TCP on loopback.
        name = f"kparallel-{secrets.token_hex(_TOKEN)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + name)
        listener.listen(_BACKLOG)
        return listener, Endpoint("", name, token)
    family, *_ = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    # On all of the machine's addresses, as TensorFlow does: its own name may mean loopback to the machine itself.
    listener = socket.create_server(("", 0), family=family, backlog=_BACKLOG)
    return listener, Endpoint(host, str(listener.getsockname()[1]), token)


def _handshake(listener: socket.socket, endpoints: list[Endpoint], index: int, number: int) -> list[Pair]:
    """Return for each ring the connection to the next worker and the one from the previous.

    The kernel accepts for a worker that still connects itself, so none waits for another.

    Raises:
        OSError: A worker cannot be reached, or does not come.
    """
    until = time.monotonic() + _TIMEOUT
    after: list[socket.socket] = []
    before: dict[int, socket.socket] = {}
    try:
        for ring in range(number):
            after.append(endpoints[(index + 1) % len(endpoints)].connect(ring))
        _admit(listener, bytes.fromhex(endpoints[index].token), before, number, until)
    except OSError as error:
        for end in (*after, *before.values()):
            end.close()
        raise OSError(
            f"{error or type(error).__name__}, at {endpoints[(index + 1) % len(endpoints)].host or 'this host'}"
        ) from error
    return [(after[ring], before[ring]) for ring in range(number)]


def _admit(listener: socket.socket, token: bytes, before: dict[int, socket.socket], number: int, until: float) -> None:
    """Accept the previous worker's connections. A stranger's connection, a silent one too, keeps nobody waiting.

    Args:
        listener: Listens.
        token: What the previous worker says first.
        before: Takes the connection of each ring.
        number: How many rings there are.
        until: When to give up, on the monotonic clock.

    Raises:
        OSError: The previous worker does not come.
    """
    heard: dict[socket.socket, bytes] = {}
    listener.setblocking(False)
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        try:
            while len(before) < number:
                events = ready.select(max(until - time.monotonic(), 0))
                if time.monotonic() >= until:
                    raise TimeoutError("the previous worker does not come")
                for end in (key.fileobj for key, _ in events):
                    assert isinstance(end, socket.socket)
                    if end is listener:
                        _accept(listener, heard, ready)
                    elif (word := _word(end, heard)) is not None:
                        ready.unregister(end)
                        del heard[end]
                        if hmac.compare_digest(word[:_TOKEN], token):
                            before[int.from_bytes(word[_TOKEN:], "big")] = _configured(end)
                        else:
                            end.close()
        finally:
            for end in heard:
                end.close()


def _accept(listener: socket.socket, heard: dict[socket.socket, bytes], ready: selectors.BaseSelector) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionAbortedError):  # It has hung up already.
        end, _ = listener.accept()
        end.setblocking(False)
        heard[end] = b""
        ready.register(end, selectors.EVENT_READ)


def _word(end: socket.socket, heard: dict[socket.socket, bytes]) -> bytes | None:
    """Return the first bytes of a connection, or None where not all of them have come."""
    try:
        part = end.recv(_TOKEN + 4 - len(heard[end]))
    except BlockingIOError:
        return None
    except OSError:
        part = b""
    heard[end] += part
    return heard[end] if not part or len(heard[end]) == _TOKEN + 4 else None


def _configured(end: socket.socket) -> socket.socket:
    end.settimeout(None)
    if end.family == socket.AF_UNIX:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    else:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end
