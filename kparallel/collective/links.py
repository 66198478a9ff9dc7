"""The connections between workers over which columns of CPUs sum: made once for each process, kept for all models."""

import json
import secrets
import socket
import sys
import time
import warnings
from dataclasses import asdict, dataclass

from kparallel.cluster import Cluster, host_and_port
from kparallel.collective.pulse import Pulse
from kparallel.collective.ring import Ring
from kparallel.collective.talk import Talk

__all__: list[str] = []

_TIMEOUT = 15.0  # Seconds; all workers are there, and connect at the same time.
_TOKEN = 16
_BUFFER = 2**20  # Bytes; of what a socket between processes of one host takes at once.

Pair = tuple[socket.socket, socket.socket]


@dataclass(frozen=True)
class Door:
    """Where a worker takes its neighbour's connections.

    Args:
        host: Its host, or the empty text for a socket between processes of one host.
        name: Its port, or the socket's name.
        token: What a neighbour says, in hexadecimal; nobody else knows it.
    """

    host: str
    name: str
    token: str

    def knock(self, ring: int) -> socket.socket:
        """Connect for one ring."""
        if self.host:
            end = socket.create_connection((self.host, int(self.name)), _TIMEOUT)
        else:
            end = socket.socket(socket.AF_UNIX)
            end.connect("\0" + self.name)
        end.sendall(bytes.fromhex(self.token) + ring.to_bytes(4, "big"))
        return _tuned(end)


class Links:
    """This worker's rings.

    Args:
        cluster: The workers.
        heartbeat: Seconds without a sign of life after which a worker is lost.
    """

    def __init__(self, cluster: Cluster, heartbeat: float) -> None:
        self._cluster = cluster
        self._rings: list[Ring] = []
        self._refused = False
        self._pulse = Pulse(cluster, heartbeat)

    def rings(self, number: int, talk: Talk) -> list[Ring] | None:
        """Return so many rings, or None where workers cannot connect; all workers call it alike.

        Args:
            number: How many columns there are.
            talk: How the workers tell one another where they listen.
        """
        missing = number - len(self._rings)
        if missing > 0 and not self._refused:
            self._connect(missing, talk)
        return None if self._refused else self._rings[:number]

    def _connect(self, number: int, talk: Talk) -> None:
        """Make rings that all workers are part of, or none."""
        pairs: list[Pair] = []
        trouble = ""
        listener = None
        try:
            listener, door = _open_door(self._cluster)
            doors = _everyones(talk, door)
            if doors:
                pairs = _meet(listener, doors, self._cluster.index, number)
        except OSError as error:
            trouble = str(error)
            if listener is None:
                _everyones(talk, None)
        finally:
            if listener is not None:
                listener.close()
        troubles = talk.gather(trouble)
        if not any(troubles):
            workers = len(self._cluster.workers)
            self._rings += [Ring(self._cluster.index, workers, *pair, self._pulse.frozen) for pair in pairs]
            return
        self._refused = True
        for end in (end for pair in pairs for end in pair):
            end.close()
        found = "; ".join(f"worker {index}: {text}" for index, text in enumerate(troubles) if text)
        warnings.warn(
            f"Workers cannot connect to one another ({found}), so TensorFlow's own collectives carry the gradients, "
            "which takes more time. Let the workers' hosts reach one another on all ports.",
            stacklevel=2,
        )


def _everyones(talk: Talk, door: Door | None) -> list[Door]:
    """Return every worker's door, or nothing if one has none."""
    told = [json.loads(answer) for answer in talk.gather(json.dumps(door and asdict(door)))]
    return [Door(**fields) for fields in told] if all(told) else []


def _open_door(cluster: Cluster) -> tuple[socket.socket, Door]:
    token = secrets.token_hex(_TOKEN)
    hosts = {address.rpartition(":")[0] for address in cluster.workers}
    host, _ = host_and_port(cluster.address)
    if len(hosts) == 1 and sys.platform == "linux":
        # Linux's abstract names belong to a host, need no file, and take a quarter less time than TCP on loopback.
        name = f"kparallel-{secrets.token_hex(_TOKEN)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + name)
        listener.listen(64)
        return listener, Door("", name, token)
    family, *_ = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    # On all of the machine's addresses, as TensorFlow does: its own name may mean loopback to the machine itself.
    listener = socket.create_server(("", 0), family=family, backlog=64)
    return listener, Door(host, str(listener.getsockname()[1]), token)


def _meet(listener: socket.socket, doors: list[Door], index: int, number: int) -> list[Pair]:
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
            after.append(doors[(index + 1) % len(doors)].knock(ring))
        while len(before) < number:
            listener.settimeout(max(until - time.monotonic(), 0.01))
            end, _ = listener.accept()
            end.settimeout(_TIMEOUT)
            word = end.recv(_TOKEN + 4, socket.MSG_WAITALL)
            if word[:_TOKEN] == bytes.fromhex(doors[index].token):
                before[int.from_bytes(word[_TOKEN:], "big")] = _tuned(end)
            else:
                end.close()  # Somebody else knocked.
    except OSError as error:
        for end in (*after, *before.values()):
            end.close()
        raise OSError(
            f"{error or type(error).__name__}, at {doors[(index + 1) % len(doors)].host or 'this host'}"
        ) from error
    return [(after[ring], before[ring]) for ring in range(number)]


def _tuned(end: socket.socket) -> socket.socket:
    end.settimeout(None)
    if end.family == socket.AF_UNIX:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    else:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end
