"""How workers connect, each in a thread of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kparallel.cluster import Cluster
from kparallel.comm import connections as connections_module
from kparallel.comm.connections import PeerConnections

SECONDS = 30


class Table:
    """WorkerGroup between threads: every worker says a text and hears all."""

    def __init__(self, workers):
        self.texts = [""] * workers
        self.barrier = threading.Barrier(workers, timeout=SECONDS)

    def seat(self, index):
        table = self

        class Seat:
            def all_gather_text(self, text):
                table.texts[index] = text
                table.barrier.wait()
                answer = list(table.texts)
                table.barrier.wait()
                return answer

        return Seat()


def on_every(hosts, work):
    """Return what a function of (links, group, index) gives on every worker; a worker that hangs fails."""
    addresses = tuple(f"{host}:{number + 1}" for number, host in enumerate(hosts))
    table = Table(len(hosts))
    joined = [PeerConnections(Cluster(addresses, index), 60.0) for index in range(len(hosts))]
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = [pool.submit(work, links, table.seat(index), index) for index, links in enumerate(joined)]
        results = [answer.result(SECONDS) for answer in answers]
    for ring in (ring for links in joined for ring in links._rings):
        ring.abort()
        ring._before.close()
        ring._after.close()
    return results


@pytest.mark.parametrize("hosts", [("127.0.0.1",) * 3, ("127.0.0.1", "127.0.0.2")], ids=["one host", "two hosts"])
def test_each_column_has_a_ring_of_its_own_which_later_models_share(hosts):
    def work(links, group, index):
        one, two = links.rings(2, group)
        again = links.rings(3, group)
        assert again[:2] == [one, two]
        own = np.array([float(index)])
        return [ring.all_reduce(own * (1 + number)).item() for number, ring in enumerate(again)]

    total = float(sum(range(len(hosts))))
    assert on_every(hosts, work) == [[total, 2 * total, 3 * total]] * len(hosts)


def test_workers_that_cannot_connect_say_so_and_use_tensorflow_together(monkeypatch):
    open_door = connections_module._listen

    def fails(cluster):
        if cluster.index == 1:
            raise OSError("no port is free")
        return open_door(cluster)

    monkeypatch.setattr(connections_module, "_listen", fails)

    def work(links, group, index):
        first = links.rings(1, group)
        return first, links.rings(1, group)  # Without another attempt.

    with pytest.warns(UserWarning, match=r"connect to one another \(worker 1: no port.*TensorFlow's own collectives"):
        assert on_every(("127.0.0.1", "127.0.0.2"), work) == [(None, None)] * 2
