"""Where a worker takes its neighbors' connections, and how two neighbors connect."""

import contextlib
import hmac
import secrets
import selectors
import socket
import sys
import time
from dataclasses import dataclass

from kparallel.cluster import Cluster, host_and_port

__all__: list[str] = []

TIMEOUT = 15.0  # Seconds; all workers are there, and connect at the same time.
_TOKEN = 16
_BACKLOG = 1024
_BUFFER = 2**20  # Bytes; of what a socket between processes of one host takes at once.

Pair = tuple[socket.socket, socket.socket]


@dataclass(frozen=True)
class Endpoint:
    """Where a worker takes its neighbor's connections.

    Args:
        host: Its host, or the empty text for a socket between processes of one host.
        name: Its port, or the socket's name.
        token: The secret by which a neighbor is recognized, in hexadecimal.
    """

    host: str
    name: str
    token: str

    def connect(self, ring: int) -> socket.socket:
        """Connect for one ring."""
        if self.host:
            end = socket.create_connection((self.host, int(self.name)), TIMEOUT)
        else:
            end = socket.socket(socket.AF_UNIX)
            end.connect("\0" + self.name)
        # preamble   [ token: 16 bytes | ring: 4 bytes, big-endian ]
        end.sendall(bytes.fromhex(self.token) + ring.to_bytes(4, "big"))
        return _configured(end)


def listen(cluster: Cluster) -> tuple[socket.socket, Endpoint]:
    """Listen for the previous worker.

    Args:
        cluster: The workers.

    Returns:
        The listening socket, and the endpoint that the previous worker has to know.

    Raises:
        OSError: No port is free.
    """
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


def connect_ring(listener: socket.socket, endpoints: list[Endpoint], index: int, number: int) -> list[Pair]:
    """Return for each ring the connection to the next worker and the one from the previous.

    The kernel accepts for a worker that still connects itself, so none waits for another.

    Args:
        listener: Listens at this worker's endpoint.
        endpoints: Of all workers.
        index: This worker's index.
        number: How many rings there are.

    Raises:
        OSError: A worker cannot be reached, or does not come.
    """
    until = time.monotonic() + TIMEOUT
    after: list[socket.socket] = []
    before: dict[int, socket.socket] = {}
    try:
        for ring in range(number):
            # To the next worker; data flow in this direction.
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
    """Accept the previous worker's connections. No other connection, a silent one included, makes anybody wait.

    Args:
        listener: Listens.
        token: The secret that the previous worker sends first.
        before: Takes the connection of each ring.
        number: How many rings there are.
        until: When to give up, on the monotonic clock.

    Raises:
        OSError: The previous worker does not come.
    """
    # Connections whose preamble has not come completely. A stranger's may stay here until the end.
    received: dict[socket.socket, bytes] = {}
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
                        _accept(listener, received, ready)
                    elif (preamble := _preamble(end, received)) is not None:
                        ready.unregister(end)
                        del received[end]
                        if hmac.compare_digest(preamble[:_TOKEN], token):
                            before[int.from_bytes(preamble[_TOKEN:], "big")] = _configured(end)
                        else:
                            end.close()
        finally:
            for end in received:
                end.close()


def _accept(listener: socket.socket, received: dict[socket.socket, bytes], ready: selectors.BaseSelector) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionAbortedError):  # It has hung up already.
        end, _ = listener.accept()
        end.setblocking(False)
        received[end] = b""
        ready.register(end, selectors.EVENT_READ)


def _preamble(end: socket.socket, received: dict[socket.socket, bytes]) -> bytes | None:
    """Return the first bytes of a connection, or None where not all of them have come."""
    try:
        part = end.recv(_TOKEN + 4 - len(received[end]))
    except BlockingIOError:
        return None
    except OSError:
        part = b""
    received[end] += part
    # A connection that was closed has a short preamble, which is no token, so the caller closes it like a stranger's.
    return received[end] if not part or len(received[end]) == _TOKEN + 4 else None


def _configured(end: socket.socket) -> socket.socket:
    end.settimeout(None)
    if end.family == socket.AF_UNIX:
        # A piece of the ring then fits; with the usual default of a fifth of it the sender waits for the receiver more
        # often.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    else:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end
