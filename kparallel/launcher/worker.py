"""One worker's process, as the launcher holds it, and the pipes between the two."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kparallel.launcher.output import Relay

__all__: list[str] = []

_MOST = 1 << 20


@dataclass
class Worker:
    """One worker's process.

    ```text
    launcher ──news────► worker     which other workers have ended
             ◄──report──            why it fails: a pipe, because the disk may be what failed
             ◄──output──            through the relays
    ```

    Args:
        name: Its index.
        process: Started, in a session and process group of its own.
        report: The pipe's end from which its report of a failure is read.
        news: The pipe's end to which news for it are written.
        relays: Copy its output.
    """

    name: int
    process: asyncio.subprocess.Process
    report: int
    news: int
    relays: Sequence[Relay]
    ended: float = 0.0
    _told: bytes = field(default=b"", init=False)

    async def wait(self) -> int:
        """Wait for the process; then end what it left behind in its group."""
        code = await self.process.wait()
        self.ended = time.time()
        self.send(signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):  # A process that it forked may hold the pipe.
            self._told = os.read(self.report, _MOST)
        for descriptor in (self.report, self.news):
            os.close(descriptor)
        self.news = -1
        for relay in self.relays:
            relay.end()
        return code

    def send(self, number: int) -> None:
        """Send a signal to the process and to all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def tell(self, ended: int) -> None:
        """Tell this worker that another has ended by itself, without a failure."""
        if self.news != -1:
            with contextlib.suppress(OSError):  # It ends itself, or does not listen.
                os.write(self.news, f"{ended}\n".encode())

    def failure(self) -> tuple[bool, float, str]:
        """Return whether another worker's failure caused this one's, when it came, and the traceback."""
        try:
            report = json.loads(self._told)
        except ValueError:  # It was killed, perhaps while it wrote.
            return False, self.ended, ""
        return bool(report["consequence"]), float(report["time"]), str(report["traceback"])


async def start_worker(
    name: int, command: Sequence[str], environment: Mapping[str, str], relays: Sequence[Relay]
) -> Worker:
    """Start a worker.

    Args:
        name: Its index.
        command: A script's path, or `-m` and a module's name, then its arguments.
        environment: Its environment variables.
        relays: For its stdout and stderr; none to let it have the launcher's, stdin too.
    """
    with contextlib.ExitStack() as stack:
        report, its_report = os.pipe()
        stack.callback(os.close, its_report)
        its_news, news = os.pipe()
        stack.callback(os.close, its_news)
        for descriptor in (report, news):
            os.set_blocking(descriptor, False)
        own = {"KPARALLEL_LAUNCHER": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        own |= {"KPARALLEL_REPORT": str(its_report), "KPARALLEL_NEWS": str(its_news)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kparallel.launcher.bootstrap", *command),
            env={**environment, **own},
            stdin=asyncio.subprocess.DEVNULL if relays else None,
            stdout=relays[0].source if relays else None,
            stderr=relays[1].source if relays else None,
            pass_fds=(its_report, its_news),
            start_new_session=True,
        )
    for each in relays:
        each.start()
    return Worker(name, process, report, news, relays)
