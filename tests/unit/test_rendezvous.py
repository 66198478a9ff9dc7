"""The barrier before the first collective, its workers as threads: all meet, or every one says why not."""

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kparallel.cluster import Cluster
from kparallel.errors import ClusterError, WorkerError
from kparallel.handshake import Messages
from kparallel.rendezvous import wait_for_peers


@pytest.fixture
def addresses():
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)


def meet(addresses, indices, timeout, greetings=(), late=0.0, tokens=("",) * 3, interval=5.0):
    """Run some workers; return each one's error, or None, and the progress lines."""
    lines = []

    def one(index):
        time.sleep(late * index)
        greeting = {"version": "1", **dict(greetings).get(index, {})}
        wait_for_peers(Cluster(addresses, index), greeting, timeout, lines.append, tokens[index], interval)

    with ThreadPoolExecutor(len(indices)) as pool:
        return [future.exception(60) for future in [pool.submit(one, index) for index in indices]], lines


def free(address):
    host, port = address.split(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
        return True


def test_all_meet_and_leave_their_ports_free(addresses):
    errors, lines = meet(addresses, range(3), 20, late=0.3)
    assert errors == [None] * 3 and lines == []
    assert all(map(free, addresses))


def test_every_worker_names_the_absent(addresses):
    errors, lines = meet(addresses, [0, 2], 2, interval=0.5)
    for error in errors:
        assert isinstance(error, WorkerError) and f"worker 1 ({addresses[1]})" in str(error), error
    assert f"worker 2 ({addresses[2]}" not in str(errors[0])
    assert any(line.startswith(f"worker 0 waits for worker 1 ({addresses[1]}), ") for line in lines), lines
    assert all(map(free, addresses))


def test_the_last_to_come_is_enough_for_none_to_start_without_it(addresses):
    """Worker 1 waits 1 s, the others 600: where it gives up, they do at once, and say why."""
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(wait_for_peers, Cluster(addresses, 1), {}, 1, print)
        long = pool.submit(wait_for_peers, Cluster(addresses, 0), {}, 600, print)
        assert "waited 1 s" in str(short.exception(120))
        assert "Worker 1" in str(long.exception(120)) and "gave up" in str(long.exception(120))


def test_other_versions_are_named_on_every_worker(addresses):
    """Ten times: a worker may be told that another gave up while it still reaches the third."""
    for _ in range(10):
        errors, _ = meet(addresses, range(3), 20, {1: {"version": "2"}}.items())
        for index, error in enumerate(errors):
            assert isinstance(error, WorkerError) and "version" in str(error), (index, error)
            assert "received worker 0: 1, worker 1: 2, worker 2: 1" in str(error)


def test_a_port_in_use(addresses):
    host, port = addresses[0].split(":")
    with socket.create_server((host, int(port))), pytest.raises(ClusterError, match=f"{addresses[0]}: another process"):
        wait_for_peers(Cluster(addresses, 0), {}, 5)


def test_what_answers_but_is_no_worker(addresses):
    host, port = addresses[1].split(":")
    with socket.create_server((host, int(port))) as server:

        def chatter():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        threading.Thread(target=chatter, daemon=True).start()
        with pytest.raises(WorkerError, match="something else answers there"):
            wait_for_peers(Cluster(addresses[:2], 0), {}, 2)


def test_a_worker_that_comes_again_is_met(addresses):
    """Worker 1 gives up its first attempt by hanging up; the second one meets worker 0."""
    two = addresses[:2]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(wait_for_peers, Cluster(two, 0), {}, 30)
        host, port = two[0].split(":")
        message = f'{{"worker": 1, "handshake": {{"cluster": "{two[0]}, {two[1]}"}}}}\n'.encode()
        for _ in range(100):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))) as line:
                line.sendall(message)
                assert b'"worker": 0' in line.recv(1000)
                break
            time.sleep(0.05)
        wait_for_peers(Cluster(two, 1), {}, 20)
        assert first.exception(20) is None


def say(address, lines):
    """Connect once somebody listens; say some lines, and return what comes back until the other side hangs up."""
    host, port = address.split(":")
    for _ in range(200):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), 20) as line:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                line.sendall(lines)
                return line.makefile("rb").read()
            return b""
        time.sleep(0.05)
    raise AssertionError("nobody listens")


MALFORMED = {
    "no JSON": b"GET / HTTP/1.1\r\n\r\n",
    "no object": b"[1]\n",
    "a worker that is a list": b'{"worker": [1], "handshake": {}}\n',
    "a worker that is a truth": b'{"worker": true, "handshake": {}}\n',
    "the worker itself": b'{"worker": 0, "handshake": {}}\n',
    "no such worker": b'{"worker": 7, "handshake": {}}\n',
    "numbers": b'{"worker": 1, "handshake": {"version": 1}}\n',
    "no greeting": b'{"worker": 1, "gave_up": "an invented reason"}\n',
    "nested": b"[" * 100_000 + b"\n",
    "no text": b"\xff\xfe\n",
    "without an end": b"x" * (3 << 20),
    "another token": Messages(1, 2, "guess").write({"handshake": {}}),
}


@pytest.mark.parametrize("token", ["", "secret"])
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_message_is_dropped_and_named(addresses, name, token):
    two, lines = addresses[:2], []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(wait_for_peers, Cluster(two, 0), {}, 30, lines.append, token)
        assert say(two[0], MALFORMED[name]) == b""
        assert not first.done()
        wait_for_peers(Cluster(two, 1), {}, 30, print, token)
        assert first.exception(30) is None
    (told,) = lines
    assert told.startswith("worker 0 dropped a connection from 127.0.0.1: "), told


def forged(token):
    """A greeting of worker 1 and what follows it, by somebody who knows all but the token."""
    messages = Messages(1, 2, token)
    return messages.write({"handshake": {"cluster": ""}}) + messages.write({"gave_up": "an invented reason"})


@pytest.mark.parametrize("guess", ["", "guess"])
def test_a_stranger_without_the_token_is_not_believed(addresses, guess):
    two, lines = addresses[:2], []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(wait_for_peers, Cluster(two, 0), {}, 30, lines.append, "secret")
        assert say(two[0], forged(guess)) == b"" and not first.done()
        wait_for_peers(Cluster(two, 1), {}, 30, print, "secret")
        assert first.exception(30) is None
    assert "token: set KPARALLEL_TOKEN to the same text on all workers" in lines[0]


def test_other_tokens_are_named_on_every_worker(addresses):
    errors, _ = meet(addresses[:2], range(2), 2, tokens=("one", "another"))
    for error in errors:
        assert isinstance(error, WorkerError) and "KPARALLEL_TOKEN" in str(error), error


def test_a_name_that_cannot_be_resolved_is_told(addresses):
    hosts = (addresses[0], "no-such-host.invalid:2222", f"{'x' * 80}:2222")
    with pytest.raises(WorkerError) as caught:
        wait_for_peers(Cluster(hosts, 0), {}, 3, print)
    assert str(caught.value).count("its name cannot be resolved here: ") == 2
    assert caught.value.__context__ is None


def test_a_lookup_that_fails_as_all_give_up_keeps_nobody_waiting(addresses, monkeypatch):
    lookups, start_server = [], asyncio.start_server

    async def look_up(*_, **__):
        lookups.append(asyncio.get_running_loop().create_future())
        await lookups[-1]

    async def serve(*arguments, **options):
        server = await start_server(*arguments, **options)
        close = server.close

        def fail_and_close():
            """Called just before the calls to the peers are cancelled."""
            for lookup in lookups:
                lookup.set_exception(socket.gaierror("late"))
            close()

        server.close = fail_and_close
        return server

    monkeypatch.setattr(asyncio, "open_connection", look_up)
    monkeypatch.setattr(asyncio, "start_server", serve)
    errors = []

    def wait():
        with pytest.raises(WorkerError) as caught:
            wait_for_peers(Cluster(addresses[:2], 0), {}, 0.2, print)
        errors.append(str(caught.value))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(60)
    assert lookups and "waited 0.2 s" in errors[0]
