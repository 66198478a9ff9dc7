"""The coordinator of a run over several machines: it counts who is there, and starts the workers together."""

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kparallel.cluster import host_and_port
from kparallel.errors import ClusterError
from kparallel.handshake import NoMessageError
from kparallel.launcher.channel import LONGEST, Channel
from kparallel.launcher.elastic import Growth, LastCheckpoint
from kparallel.launcher.gang import PREEMPTED
from kparallel.launcher.hosts import Hosts

__all__: list[str] = []

_PROGRESS = 5.0


@dataclass
class _Host:
    """A host that is there.

    Args:
        channel: The connection to its launcher.
        port: Where its next worker will listen.
        ending: How its worker ended; None while it runs or before it is started.
        held_back: Whether its worker was lost, so that it takes part from the next checkpoint on only.
    """

    channel: Channel
    port: int
    ending: dict[str, Any] | None = None
    held_back: bool = False


class Coordinator:
    """Coordinates the launchers of a run, on host 0.

    Args:
        hosts: What it was told.
        say: Prints a line.
    """

    def __init__(self, hosts: Hosts, say: Callable[[str], None]) -> None:
        self._hosts = hosts
        self._say = say
        self._present: dict[int, _Host] = {}
        self._members: list[int] = []  # Of the gang that runs, in the order of their indices.
        self._gone: dict[int, str] = {}  # Of these, who is not there any more, and why.
        self._order: list[int] = []  # Of these, whose workers have ended, the first first.
        self._stop: int | None = None  # The code with which host 0 was told to end.
        self._last = LastCheckpoint()
        self._growth = Growth(self._last, False)
        self._changed = asyncio.Event()
        self._used = 0

    async def run(self) -> None:
        """Start the workers again and again until the run has ended; tell every launcher how.

        Raises:
            ClusterError: The address of host 0 cannot be listened on.
        """
        _, port = host_and_port(self._hosts.addresses[0])
        try:
            server = await asyncio.start_server(self._answer, None, port, limit=LONGEST)
        except OSError as error:
            taken = "another process listens there" if error.errno == errno.EADDRINUSE else str(error)
            raise ClusterError(f"Host 0 cannot listen on {self._hosts.addresses[0]}: {taken}.") from error
        try:
            code, reason = await self._coordinate()
        finally:
            server.close()
        for host in list(self._present.values()):
            host.channel.send({"done": code, "reason": reason})
            await host.channel.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Listen to a launcher as long as it is there."""
        channel = Channel(reader, writer, self._hosts.token, self._hosts.silence)
        index = -1
        try:
            hello = await channel.read()
            if hello is not None and self._accepts(hello, channel):
                index = hello["hello"]
                self._present[index] = _Host(channel, hello["port"])
                self._changed.set()
                # A host that comes while others train is added after their next checkpoint.
                if self._members and self._growth.offer():
                    self._ask_to_leave()
                async with channel.taking_part():
                    while (message := await channel.read()) is not None:
                        self._take(index, message)
        except (NoMessageError, LookupError, TypeError, ValueError) as error:
            self._say(f"dropped a connection from {channel.peer}: {error}")
        if index in self._present and self._present[index].channel is channel:
            self._leaves(index, "was lost")
        await channel.close()

    def _leaves(self, index: int, how: str) -> None:
        del self._present[index]
        if index in self._members:
            self._gone.setdefault(index, f"{self._hosts.name(index)} {how}")
        self._changed.set()

    def _accepts(self, hello: dict[str, Any], channel: Channel) -> bool:
        index, port = hello.get("hello"), hello.get("port")
        if type(index) is not int or not 0 <= index < len(self._hosts.addresses) or type(port) is not int:
            raise NoMessageError("it does not say hello first")
        if hello.get("run") != self._hosts.run:
            channel.send(
                {
                    "refused": f"Expected the same -n and --hosts on all hosts, received {self._hosts.run!r} on host 0 "
                    f"and {hello.get('run')!r} on host {index}."
                }
            )
        elif index in self._present:
            channel.send({"busy": f"host {index} is there already; does another launcher run as host {index}?"})
        else:
            return True
        return False

    def _take(self, index: int, message: dict[str, Any]) -> None:
        """Take what a launcher says."""
        host = self._present[index]
        if "ended" in message:
            host.ending, host.port = message["ended"], message["port"]
            self._order.append(index)
            if host.ending["signalled"]:
                self._stop = host.ending["code"] if index == 0 else self._stop
                self._leaves(index, "was told to leave")
            self._changed.set()
        elif "checkpoint" in message and self._growth.heard(message):
            self._ask_to_leave()

    def _ask_to_leave(self) -> None:
        if self._members[0] in self._present:
            self._present[self._members[0]].channel.send({"leave": True})

    async def _coordinate(self) -> tuple[int, str]:
        """Return with which code the run ends, and why if it failed."""
        news, gangs = "", 0
        hosts, least = self._hosts, self._hosts.sizes.least
        await self._until(lambda: len(self._present) == hosts.sizes.most, hosts.wait)
        while True:
            if not await self._until(lambda: len(self._ready()) >= least, hosts.timeout):
                missing = ", ".join(hosts.name(index) for index in self._missing())
                return 1, f"expected at least {least} hosts within {hosts.timeout:g} s; missing were {missing}"
            self._start(gangs, news)
            gangs += 1
            await self._until(lambda: self._has_failed() or self._has_ended())
            for index in self._running():
                self._present[index].channel.send({"end": True})
            await self._until(self._has_ended)
            over, news = self._judge()
            if over is not None:
                return over

    def _start(self, gangs: int, news: str) -> None:
        self._members, self._gone, self._order = self._ready(), {}, []
        self._growth = Growth(self._last, len(self._members) < len(self._present))
        addresses = [self._hosts.worker_address(index, self._present[index].port) for index in self._members]
        outlook = f"{news}; {self._last.outlook(len(addresses))}" if news else ""
        # index     of the host, as --index says it
        # place     of its worker in this gang, as TF_CONFIG says it
        for place, index in enumerate(self._members):
            self._present[index].ending = None
            start = {"workers": addresses, "index": place, "gangs": gangs, "news": outlook}
            self._present[index].channel.send({"start": start})
        for index in self._present.keys() - set(self._members) if news else ():
            self._present[index].channel.send({"news": outlook})

    def _judge(self) -> tuple[tuple[int, str] | None, str]:
        """Return how the run ends, if it does, else why the workers are started again."""
        endings = {index: self._present[index].ending for index in self._order if index in self._present}
        told = {index: ending for index, ending in endings.items() if ending is not None}
        codes = {ending["code"] for ending in told.values()}
        if self._stop is not None:  # Who ends host 0 ends the run.
            return (self._stop, f"{self._hosts.name(0)} was told to leave"), ""
        if codes == {0}:
            return (0, ""), ""
        if codes == {PREEMPTED} and not self._gone:
            self._admit_all()
            return None, "more hosts are there" if self._growth.asked else "a worker was asked to leave"
        cause, code, lost = self._cause(told)
        for index in lost:
            self._present[index].held_back = True
        if (lost or self._gone) and len(self._ready()) >= self._hosts.sizes.least:
            return None, cause
        if self._used == self._hosts.restarts:
            return (code, cause), ""
        self._used += 1
        self._admit_all()
        return None, f"{cause}; restart {self._used} of {self._hosts.restarts}"

    def _cause(self, told: dict[int, dict[str, Any]]) -> tuple[str, int, list[int]]:
        """Return why a gang failed, the exit code that tells it, and the hosts whose workers alone were lost."""
        if self._gone:
            return next(iter(self._gone.values())), 1, []
        failed = {index: ending for index, ending in told.items() if ending["code"] not in (0, PREEMPTED)}
        if all(ending["consequence"] for ending in failed.values()):
            frozen = [index for index, ending in failed.items() if ending["lost"]]
            if frozen:
                names = " and ".join(map(self._hosts.name, frozen))
                return f"the worker of {names} did not respond any more", 1, frozen
        index, ending = min(failed.items(), key=lambda each: each[1]["consequence"])
        return ending["reason"], ending["code"], [index] if ending["lost"] else []

    def _admit_all(self) -> None:
        for host in self._present.values():
            host.held_back = False

    def _ready(self) -> list[int]:
        """Return the hosts that can start a worker."""
        return sorted(index for index, host in self._present.items() if not host.held_back)

    def _missing(self) -> list[int]:
        return [index for index in range(len(self._hosts.addresses)) if index not in self._present]

    def _running(self) -> Iterable[int]:
        return [index for index in self._members if index in self._present and self._present[index].ending is None]

    def _has_ended(self) -> bool:
        return not self._running()

    def _has_failed(self) -> bool:
        endings = [self._present[index].ending for index in self._members if index in self._present]
        return len(endings) < len(self._members) or any(ending and ending["code"] for ending in endings)

    async def _until(self, done: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait until something is so, or for some seconds; return whether it is."""
        start = shown = time.monotonic()
        while not done():
            self._changed.clear()
            now = time.monotonic()
            if now - start >= seconds:
                return False
            if seconds < float("inf") and now - shown >= _PROGRESS:
                shown = now
                missing = ", ".join(self._hosts.name(index) for index in self._missing())
                self._say(f"waits for {missing}, {now - start:.0f} s of {seconds:g} s")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(1.0, start + seconds - now))
        return True
