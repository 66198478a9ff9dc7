"""A launcher of a run over several machines: it starts its worker when the coordinator says so."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from kparallel.cluster import host_and_port
from kparallel.errors import ClusterError, WorkerError
from kparallel.handshake import NoMessageError
from kparallel.launcher.channel import LONGEST, Channel
from kparallel.launcher.coordinator import Coordinator
from kparallel.launcher.elastic import Heard
from kparallel.launcher.gang import SIGNALS, Ending, Gang, Launch, console, guarding
from kparallel.launcher.hosts import Hosts

__all__: list[str] = []

_RETRY = 0.2

MakeLaunch = Callable[[Mapping[str, Any], Heard], Launch]


def run_over_hosts(hosts: Hosts, make: MakeLaunch, tell: Callable[[str], None]) -> Ending:
    """Take part in a run over several machines, until it has ended; coordinate it on host 0.

    Args:
        hosts: What this launcher was told.
        make: Returns what is started here: a function of the coordinator's start message and of what takes reports of
            checkpoints.
        tell: Prints a line.

    Returns:
        How the run has ended.

    Raises:
        WorkerError: Host 0 does not come.
        ClusterError: The launchers were told different things, or host 0 cannot listen on its address.
    """

    async def run() -> Ending:
        coordination = asyncio.create_task(Coordinator(hosts, tell).run()) if hosts.index == 0 else None
        member = asyncio.create_task(_Member(hosts, make, tell, note).run())
        # On host 0 both run in one process; whichever ends first, the other one is waited for.
        tasks = [task for task in (member, coordination) if task is not None]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if coordination is not None:
            await coordination
        return await member

    with guarding() as note:
        return asyncio.run(run())


class _Member:
    """One launcher's side."""

    def __init__(
        self, hosts: Hosts, make: MakeLaunch, tell: Callable[[str], None], note: Callable[[str], None]
    ) -> None:
        self._hosts = hosts
        self._make = make
        self._tell = tell
        self._note = note
        self._held = socket.socket()  # Keeps a port free for the next worker.
        self._failure = Ending(0)  # This host's last.
        self._why = ""  # Why the coordinator does not take this launcher, as far as one knows.

    async def run(self) -> Ending:
        """Take part until the run has ended."""
        ending = None
        since = time.monotonic()
        while ending is None:
            channel = await self._connect(since)
            async with channel.taking_part():
                ending = await self._take_part(channel)
            await channel.close()
            # A launcher that is refused for a while, as by another one with its index, tries on without a word.
            if ending is None and channel.was_there:
                self._why = ""
                self._tell(
                    f"{self._hosts.name(0)}, which coordinates, was lost; waits {self._hosts.timeout:g} s for it"
                )
                since = time.monotonic()
        return ending

    async def _connect(self, since: float) -> Channel:
        """Reach the coordinator.

        Raises:
            WorkerError: Nobody is there in time.
        """
        host, port = host_and_port(self._hosts.addresses[0])
        while time.monotonic() - since < self._hosts.timeout:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, limit=LONGEST), 5)
                return Channel(reader, writer, self._hosts.token, self._hosts.silence)
            await asyncio.sleep(_RETRY)
        raise WorkerError(
            f"Host {self._hosts.index} waited {self._hosts.timeout:g} s for {self._hosts.name(0)}, which coordinates"
            f"{': ' + self._why if self._why else ''}. Is kparallel run started there, as host 0?"
        )

    async def _take_part(self, channel: Channel) -> Ending | None:
        """Do what the coordinator says; return how the run has ended, or None where the coordinator is lost.

        Raises:
            ClusterError: It does not take this launcher.
        """
        channel.send({"hello": self._hosts.index, "port": self._hold_port(), "run": self._hosts.run})
        while (message := await self._read(channel)) is not None:
            if "refused" in message:
                raise ClusterError(message["refused"])
            if "busy" in message:
                self._why = message["busy"]
                await asyncio.sleep(_RETRY)
                return None
            if "done" in message:
                own = self._failure.traceback if message["reason"] == self._failure.reason else ""
                return Ending(message["done"], message["reason"], own)
            if "news" in message:
                self._tell(message["news"])
            if "start" in message:
                self._why = ""
                ending = await self._start(channel, message["start"])
                how = {name: getattr(ending, name) for name in ("code", "reason", "signalled", "consequence")}
                channel.send({"ended": {**how, "lost": bool(ending.lost)}, "port": self._hold_port()})
                if ending.signalled:
                    return ending
        return None

    async def _start(self, channel: Channel, start: Mapping[str, Any]) -> Ending:
        """Run this host's worker, and end it where the coordinator is lost or says so."""
        if start["news"]:
            self._tell(start["news"])

        def heard(message: Mapping[str, Any]) -> bool:
            channel.send(message)
            return False

        # Shortly before the worker binds the port: nobody else was to take it meanwhile.
        self._held.close()
        launch = self._make(start, heard)
        gang = Gang(launch, self._note, console(launch))
        running = asyncio.create_task(gang.run(SIGNALS))
        listening = asyncio.create_task(self._listen(channel, gang))
        ending = await running
        listening.cancel()
        await asyncio.wait([listening])
        self._failure = ending
        return ending

    async def _listen(self, channel: Channel, gang: Gang) -> None:
        """Pass on what the coordinator says while the worker runs."""
        while (message := await self._read(channel)) is not None:
            if "leave" in message:
                gang.ask_to_leave()
            elif "end" in message:
                gang.stop()
        gang.stop()

    async def _read(self, channel: Channel) -> dict[str, Any] | None:
        try:
            return await channel.read()
        except NoMessageError as error:
            self._why = f"something else answers there: {error}"
            return None

    def _hold_port(self) -> int:
        """Return a port that is free on all of this machine's addresses, and stays so until a worker starts."""
        self._held.close()
        self._held = socket.socket()
        self._held.bind(("", 0))
        return int(self._held.getsockname()[1])
