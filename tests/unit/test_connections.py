"""How workers connect, each in a thread of one process."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kparallel.cluster import Cluster
from kparallel.comm.connections import PeerConnections
from kparallel.comm.endpoint import TIMEOUT, listen
from kparallel.comm.group import SingleWorker
from kparallel.selftest.workers import worker_links

SECONDS = 30


class Table:
    """WorkerGroup between threads: every worker says a text and hears all."""

    def __init__(self, workers):
        self.texts = [""] * workers
        self.barrier = threading.Barrier(workers, timeout=SECONDS)

    def seat(self, index):
        table = self

        class Seat(SingleWorker):
            def all_gather_text(self, text):
                table.texts[index] = text
                table.barrier.wait()
                answer = list(table.texts)
                table.barrier.wait()
                return answer

        return Seat()


def on_every(hosts, work, **options):
    """Return what a function of (links, group, index) gives on every worker; a worker that hangs fails."""
    addresses = tuple(f"{host}:{number + 1}" for number, host in enumerate(hosts))
    table = Table(len(hosts))
    joined = [PeerConnections(Cluster(addresses, index), 60.0, **options) for index in range(len(hosts))]
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = [pool.submit(work, links, table.seat(index), index) for index, links in enumerate(joined)]
        results = [answer.result(SECONDS) for answer in answers]
    for links in joined:
        links.close()
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


@pytest.mark.parametrize("hosts", [("127.0.0.1",) * 2, ("127.0.0.1", "127.0.0.2")], ids=["one host", "two hosts"])
def test_strangers_keep_no_worker_waiting(hosts):
    """Strangers connect first: one is silent, one says a part of a token, one another token, one hangs up."""
    opened = []

    def visited(cluster):
        listener, door = listen(cluster)
        for word in (b"", b"half", bytes(20), None):
            end = socket.socket(listener.family)
            end.connect(listener.getsockname())
            if word is None:
                end.close()
            else:
                end.sendall(word)
                opened.append(end)
        return listener, door

    def work(links, group, index):
        (ring,) = links.rings(1, group)
        return ring.all_reduce(np.array([float(index)])).item()

    start = time.monotonic()
    assert on_every(hosts, work, listen=visited, attempts=1) == [1.0, 1.0]
    assert time.monotonic() - start < TIMEOUT
    for end in opened:
        end.close()


def test_workers_that_cannot_connect_at_first_try_again():
    failures = ["no port is free yet"]

    def fails_once(cluster):
        if cluster.index == 1 and failures:
            raise OSError(failures.pop())
        return listen(cluster)

    work = lambda links, group, index: links.rings(1, group)[0].all_reduce(np.array([1.0])).item()  # noqa: E731
    assert on_every(("127.0.0.1", "127.0.0.2"), work, listen=fails_once) == [2.0, 2.0]


@pytest.mark.parametrize("leavers", [(0,), (1, 2), (0, 1, 2), ()])
def test_workers_connect_anew_after_one_has_left(leavers):
    def work(links, group, index):
        one, two = links.rings(2, group)
        own = np.array([float(index)])
        first = one.all_reduce(own).item()
        if index in leavers:
            two.abort()
        links.renew(group)
        return first, one.all_reduce(own).item(), two.all_gather(b"x"), one.generation

    expected = 3.0, 3.0, [b"x"] * 3, int(bool(leavers))
    assert on_every(("127.0.0.1",) * 3, work) == [expected] * 3


def test_workers_that_cannot_connect_say_so_and_use_tensorflow_together():
    def fails(cluster):
        if cluster.index == 1:
            raise OSError("no port is free")
        return listen(cluster)

    def work(links, group, index):
        first = links.rings(1, group)
        return first, links.rings(1, group)  # Without another attempt.

    with pytest.warns(UserWarning, match=r"connect to one another \(worker 1: no port.*TensorFlow's own collectives"):
        assert on_every(("127.0.0.1", "127.0.0.2"), work, listen=fails) == [(None, None)] * 2


@pytest.mark.parametrize("hosts", [("127.0.0.1",) * 3, ("127.0.0.1", "127.0.0.2", "127.0.0.3")], ids=["one", "three"])
@pytest.mark.parametrize("fault", [None, 1])
def test_each_pair_is_connected_by_itself(hosts, fault):
    """A worker that cannot listen has no links; the pair of the other two has one."""

    def fails(cluster):
        if cluster.index == fault:
            raise OSError("no port is free")
        return listen(cluster)

    cluster = [Cluster(tuple(f"{host}:{i + 1}" for i, host in enumerate(hosts)), index) for index in range(3)]
    links = on_every(hosts, lambda _, group, index: worker_links(cluster[index], group, fails))
    assert links[0] == links[1] == links[2]
    assert [link.ends for link in links[0]] == [tuple(f"worker {end}" for end in pair) for pair in ("01", "02", "12")]
    assert {link.kind for link in links[0]} == {"one host" if hosts[0] == hosts[1] else "network"}
    problems = [link.problem for link in links[0]]
    broken = ["worker 1 cannot listen", "", "no port is free"]  # As the first end of each has it.
    assert problems == (["", "", ""] if fault is None else broken)
