"""The coordinator of a run over several machines, with launchers that only say what launchers say."""

import asyncio

import pytest

from kparallel.errors import ClusterError
from kparallel.launcher.channel import LONGEST, Channel
from kparallel.launcher.coordinator import Coordinator
from kparallel.launcher.gang import PREEMPTED
from kparallel.launcher.hosts import Hosts
from kparallel.launcher.local import free_addresses
from kparallel.launcher.sizes import Sizes

SECONDS = 120


def ended(code, **more):
    return {"code": code, "reason": f"exit {code}", "consequence": False, "lost": False, "signalled": False} | more


async def connected(host, port):
    """Connect as soon as the coordinator listens."""
    while True:
        try:
            return await asyncio.open_connection(host, port, limit=LONGEST)
        except ConnectionRefusedError:
            await asyncio.sleep(0)


class Launcher:
    """Another host's side of the connection."""

    def __init__(self, hosts, index, opened):
        self.hosts = hosts
        self.index = index
        self.opened = opened

    async def come(self, **hello):
        host, _, port = self.hosts.addresses[0].rpartition(":")
        reader, writer = await asyncio.wait_for(connected(host, int(port)), SECONDS)
        self.channel = Channel(reader, writer, self.hosts.token, self.hosts.silence)
        self.opened.append(self.channel)
        self.channel.send({"hello": self.index, "port": 7000 + self.index, "run": self.hosts.run} | hello)
        return self

    async def hears(self):
        return await asyncio.wait_for(self.channel.read(), SECONDS)

    def ends(self, code, **more):
        self.channel.send({"ended": ended(code, **more), "port": 8000 + self.index})


def coordinated(script, sizes=(2, 2), restarts=0, wait=20.0, timeout=20.0, silence=60.0):
    """Run a script of launchers against a coordinator; return what the coordinator printed."""
    hosts = Hosts(free_addresses(sizes[1]), 0, Sizes(*sizes), restarts, wait, timeout, silence, "token")
    said = []

    async def run():
        coordinator = asyncio.create_task(Coordinator(hosts, said.append).run())
        opened = []
        await script(*(Launcher(hosts, index, opened) for index in range(sizes[1])))
        await asyncio.wait_for(coordinator, SECONDS)
        for channel in opened:
            await channel.close()

    asyncio.run(run())
    return said


async def all_come(*launchers):
    for launcher in launchers:
        await launcher.come()
    return [(await launcher.hears())["start"] for launcher in launchers]


def test_all_workers_start_together_and_the_run_ends_with_them():
    async def script(one, other):
        starts = await all_come(one, other)
        assert [start["index"] for start in starts] == [0, 1] and starts[0]["workers"] == starts[1]["workers"]
        assert [address.rpartition(":")[2] for address in starts[0]["workers"]] == ["7000", "7001"]
        one.ends(0)
        other.ends(0)
        assert [await each.hears() for each in (one, other)] == [{"done": 0, "reason": ""}] * 2

    assert coordinated(script) == []


def test_a_failure_ends_the_other_worker_and_the_run():
    async def script(one, other):
        await all_come(one, other)
        other.ends(3)
        assert await one.hears() == {"end": True}
        one.ends(1, consequence=True)
        assert [await each.hears() for each in (one, other)] == [{"done": 3, "reason": "exit 3"}] * 2

    coordinated(script)


def test_workers_are_started_again_as_often_as_was_said():
    async def script(one, other):
        await all_come(one, other)
        one.ends(3)
        assert "end" in await other.hears()
        other.ends(1, consequence=True)
        starts = [(await each.hears())["start"] for each in (one, other)]
        assert starts[0]["gangs"] == 1 and starts[0]["news"].startswith("exit 3; restart 1 of 1; 2 workers start anew")
        assert starts[0]["workers"][1].endswith(":8001")
        one.ends(0)
        other.ends(0)
        assert (await one.hears())["done"] == (await other.hears())["done"] == 0

    coordinated(script, restarts=1)


def test_without_a_lost_host_the_others_go_on():
    async def script(one, other):
        await all_come(one, other)
        await other.channel.close()
        assert "end" in await one.hears()
        one.ends(1, consequence=True)
        start = (await one.hears())["start"]
        assert len(start["workers"]) == 1 and "host 1" in start["news"] and "was lost" in start["news"]
        one.ends(0)
        assert await one.hears() == {"done": 0, "reason": ""}

    coordinated(script, sizes=(1, 2))


def test_a_launcher_that_freezes_is_lost_and_keeps_nobody_waiting():
    """Its system answers for it, but it does not say any more that it is there."""

    async def script(one, other):
        await one.come()
        async with one.channel.taking_part():
            await other.come()
            for each in (one, other):
                assert "start" in await each.hears()
            one.ends(1, consequence=True)
            start = (await one.hears())["start"]
            assert len(start["workers"]) == 1 and "host 1" in start["news"] and "was lost" in start["news"]
            one.ends(0)
            assert await one.hears() == {"done": 0, "reason": ""}

    coordinated(script, sizes=(1, 2), silence=2.0)


def test_a_host_that_comes_is_added_after_a_checkpoint():
    async def script(one, other):
        await one.come()
        start = (await one.hears())["start"]
        assert len(start["workers"]) == 1
        await other.come()
        one.channel.send({"checkpoint": "written", "epoch": 1, "step": 0})
        assert await one.hears() == {"leave": True}
        one.ends(PREEMPTED)
        starts = [(await each.hears())["start"] for each in (one, other)]
        assert len(starts[0]["workers"]) == 2
        assert starts[0]["news"] == "more hosts are there; 2 workers go on from the start of epoch 1"
        one.ends(0)
        other.ends(0)
        assert (await one.hears())["done"] == (await other.hears())["done"] == 0

    coordinated(script, sizes=(1, 2), wait=0.01)


def test_too_few_hosts_are_named():
    async def script(one, _):
        await one.come()
        done = await one.hears()
        assert done["done"] == 1 and "expected at least 2 hosts within 1 s; missing were host 1" in done["reason"]

    coordinated(script, wait=0.01, timeout=1.0)


def test_who_does_not_belong_is_turned_away():
    async def script(one, other):
        await one.come()
        stranger = await Launcher(one.hosts, 1, one.opened).come(run="-n 3:3 --hosts other")
        assert "Expected the same -n and --hosts on all hosts" in (await stranger.hears())["refused"]
        second = await Launcher(one.hosts, 0, one.opened).come()
        assert "host 0 is there already" in (await second.hears())["busy"]
        nobody = await Launcher(one.hosts, 9, one.opened).come()
        assert await nobody.hears() is None
        await other.come()
        for each in (one, other):
            assert "start" in await each.hears()
            each.ends(0)
        assert (await one.hears())["done"] == (await other.hears())["done"] == 0

    (said,) = coordinated(script)
    assert said.startswith("dropped a connection from 127.0.0.1") and "hello" in said


def test_an_address_that_is_taken_is_named():
    async def run():
        server = await asyncio.start_server(lambda *_: None, None, 0)
        port = server.sockets[0].getsockname()[1]
        hosts = Hosts((f"127.0.0.1:{port}",), 0, Sizes(1, 1), 0, 1, 1, 4, "")
        with pytest.raises(ClusterError, match="another process listens there"):
            await Coordinator(hosts, print).run()
        server.close()

    asyncio.run(run())
