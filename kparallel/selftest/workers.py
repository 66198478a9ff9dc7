"""Measures the link between each pair of workers."""

import itertools
import time
from dataclasses import asdict

from kparallel.cluster import Cluster, host_and_port
from kparallel.comm.connections import Listen, connect_pair
from kparallel.comm.endpoint import listen
from kparallel.comm.group import WorkerGroup
from kparallel.comm.neighbors import RingPosition
from kparallel.comm.ring import Ring
from kparallel.selftest.links import Link, measure

__all__: list[str] = []

_LIMIT = 20.0  # Seconds without an answer after which a link is broken.


def worker_links(cluster: Cluster, group: WorkerGroup, listen: Listen = listen) -> list[Link]:
    """Return what each pair of workers measured, one pair after the other; all workers call it alike.

    The data go from host memory to host memory, as kparallel's own ring between CPUs carries them.

    Args:
        cluster: The workers.
        group: How they wait for one another, and gather what they measured.
        listen: Listens for another worker; `OSError` says why it cannot.
    """
    links = []
    for pair in itertools.combinations(range(len(cluster.workers)), 2):
        own = _measured(cluster, pair, group, listen)
        # The pairs take turns, and all workers wait for each: two links that are measured at once would slow each
        # other.
        told = group.exchange("has measured a link", own and asdict(own))
        first, second = (Link(**{**told[index], "ends": tuple(told[index]["ends"])}) for index in pair)
        # One end may see a fault that the other end does not.
        links.append(first if first.problem or not second.problem else second)
    return links


def _measured(cluster: Cluster, pair: tuple[int, int], group: WorkerGroup, listen: Listen) -> Link | None:
    """Return what this worker measured of a link, or None where it is not one of its ends."""
    connected = connect_pair(cluster, *pair, group, listen)
    if connected is None:
        return None
    hosts = {host_and_port(cluster.workers[index])[0] for index in pair}
    ends, kind = (f"worker {pair[0]}", f"worker {pair[1]}"), "network" if len(hosts) > 1 else "one host"
    if isinstance(connected, str):
        return Link(ends, kind, problem=connected)
    own = pair.index(cluster.index)
    until = time.monotonic() + _LIMIT
    after, before = connected
    position = RingPosition(own, 2, frozen=lambda: 1 - own if time.monotonic() > until else None)
    ring = Ring(position, after, before)
    try:
        return measure(ends, kind, own, ring.all_reduce)
    finally:
        ring.close()
