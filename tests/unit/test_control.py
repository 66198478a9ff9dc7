"""The connections between a program and its servers: who may connect, who is waited for, and how they end."""

import os
import socket
import threading
import time

import pytest

from kparallel.cluster import Cluster, host_and_port
from kparallel.errors import ClusterError, WorkerError
from kparallel.launcher.local import free_addresses
from kparallel.machines.control import Line, accept_servers, connect_to_program

TOKEN = "known to both"


def nothing(line):
    raise AssertionError(line)


@pytest.fixture
def machines():
    addresses = free_addresses(3)
    return [Cluster(addresses, index) for index in range(3)]


@pytest.fixture
def connected(machines):
    """The program's lines to both servers, and each server's line."""
    servers = {}

    def connect(index):
        servers[index] = connect_to_program(machines[index], TOKEN, 10)

    threads = [threading.Thread(target=connect, args=(index,)) for index in (1, 2)]
    for thread in threads:
        thread.start()
    lines = accept_servers(machines[0], TOKEN, 10, nothing)
    for thread in threads:
        thread.join()
    yield lines, servers
    for line in [*lines.values(), *servers.values()]:
        line.close()


def test_messages_pass_both_ways_and_an_end_is_seen(connected):
    lines, servers = connected
    lines[1].send(ended=7)
    servers[2].send(notice=1)
    assert servers[1].read(5) == {"ended": 7} and lines[2].read(5) == {"notice": 1}
    assert servers[2].read(0.01) == {}
    lines[2].close()
    assert servers[2].read(5) is None
    lines[2].send(ended=0)  # Nobody listens, and nothing happens.


def test_the_programs_port_is_free_again_for_tensorflow(machines, connected):
    _, port = host_and_port(machines[0].address)
    socket.create_server(("", port)).close()


def test_strangers_are_dropped(machines):
    strangers = []

    def come():
        time.sleep(0.1)
        for token, first in ((TOKEN, {"server": 9}), ("another", {"server": 1}), ("", {"server": 1})):
            end = socket.create_connection(host_and_port(machines[0].address), 10)
            strangers.append(Line(end, token))
            strangers[-1].send(**first)
        strangers[-1].send(more=1)
        for index in (1, 2):
            strangers.append(connect_to_program(machines[index], TOKEN, 10))

    thread = threading.Thread(target=come)
    thread.start()
    lines = accept_servers(machines[0], TOKEN, 10, nothing)
    thread.join()
    lines[1].send(ended=3)
    assert strangers[3].read(5) == {"ended": 3}
    assert [stranger.read(5) for stranger in strangers[:3]] == [None] * 3
    for line in [*lines.values(), *strangers]:
        line.close()


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\n", b"[]\n", b"[" * 1000 + b"\n", b"\xff\n", b"x" * 5000])
def test_what_is_no_message_ends_the_connection(text):
    one, other = socket.socketpair()
    with one, other:
        other.sendall(text)
        assert Line(one, TOKEN).read(5) is None


def test_a_server_that_does_not_come_is_named(machines):
    with pytest.raises(WorkerError) as raised:
        accept_servers(machines[0], TOKEN, 0.1, nothing)
    assert machines[0].workers[1] in str(raised.value) and machines[0].workers[2] in str(raised.value)


def test_a_program_that_does_not_listen_is_named(machines):
    with pytest.raises(WorkerError, match=machines[0].workers[0]):
        connect_to_program(machines[1], TOKEN, 0.1)


def test_a_taken_port_is_named(machines):
    taken = socket.create_server(("", host_and_port(machines[0].address)[1]))
    with taken, pytest.raises(ClusterError, match=machines[0].address):
        accept_servers(machines[0], TOKEN, 1, nothing)


def test_a_token_may_be_any_bytes():
    here, there = socket.socketpair()
    token = os.fsdecode(b"\xff\xfe")
    with here, there:
        Line(there, token).send(server=1)
        assert Line(here, token).read(1.0) == {"server": 1}
