"""One worker's process, as the launcher holds it, and the pipes between the two."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kparallel.launcher.output import Relay

__all__: list[str] = []

_MOST = 1 << 20


@dataclass
class Worker:
    """One worker's process.

    ```text
    launcher ──news────► worker     which other workers have ended
             ──leave───►            that it is to leave after a checkpoint
             ◄──report──            checkpoints, and why it fails: a pipe, because the disk may be what failed
             ◄──output──            through the relays
    ```

    Args:
        name: Its index.
        process: Started, in a session and process group of its own.
        report: The pipe's end from which its reports are read.
        news: The pipe's end to which news for it are written.
        leave: The pipe's end to which the request to leave is written.
        relays: Copy its output.
        heard: Takes what it reports of checkpoints.
    """

    name: int
    process: asyncio.subprocess.Process
    report: int
    news: int
    leave: int
    relays: Sequence[Relay]
    heard: Callable[[Mapping[str, Any]], None]
    ended: float = 0.0
    _unread: bytes = field(default=b"", init=False)
    _failure: Mapping[str, Any] | None = field(default=None, init=False)

    async def wait(self) -> int:
        """Wait for the process; then end what it left behind in its group."""
        code = await self.process.wait()
        self.ended = time.time()
        # To its group: a process that a script has started would go on without it, and keep its pipes open.
        self.send(signal.SIGKILL)
        # What was reported just before the end may not have been read yet.
        self.listen()
        asyncio.get_running_loop().remove_reader(self.report)
        for descriptor in (self.report, self.news, self.leave):
            os.close(descriptor)
        self.news = self.leave = -1
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

    def ask_to_leave(self) -> None:
        """Ask this worker to leave after a checkpoint."""
        if self.leave != -1:
            with contextlib.suppress(OSError):
                os.write(self.leave, b".")

    def listen(self) -> None:
        """Read what it has reported."""
        block = b""
        with contextlib.suppress(BlockingIOError):  # It has reported nothing more; or a process that it forked lives.
            block = os.read(self.report, _MOST)
        if not block:
            asyncio.get_running_loop().remove_reader(self.report)
        # A report may arrive in pieces; the last one is kept until its line ends.
        *lines, self._unread = (self._unread + block).split(b"\n")
        for message in map(json.loads, lines):
            if "checkpoint" in message:
                self.heard(message)
            else:
                self._failure = message

    def failure(self) -> tuple[bool, float, str]:
        """Return whether another worker's failure caused this one's, when it came, and the traceback."""
        if self._failure is None:  # It was killed.
            return False, self.ended, ""
        return (bool(self._failure["consequence"]), float(self._failure["time"]), str(self._failure["traceback"]))


async def start_worker(
    name: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    relays: Sequence[Relay],
    heard: Callable[[Mapping[str, Any]], None],
) -> Worker:
    """Start a worker.

    Args:
        name: Its index.
        command: A script's path, or `-m` and a module's name, then its arguments.
        environment: Its environment variables.
        relays: For its stdout and stderr; none to let it have the launcher's, stdin too.
        heard: Takes what it reports of checkpoints.
    """
    with contextlib.ExitStack() as stack:
        report, its_report = os.pipe()
        # The launcher's copies of the worker's ends are closed, so that a pipe ends when the worker does.
        stack.callback(os.close, its_report)
        its_news, news = os.pipe()
        stack.callback(os.close, its_news)
        its_leave, leave = os.pipe()
        stack.callback(os.close, its_leave)
        for descriptor in (report, news, leave):
            os.set_blocking(descriptor, False)
        own = {"KPARALLEL_LAUNCHER": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        own |= {"KPARALLEL_REPORT": str(its_report), "KPARALLEL_NEWS": str(its_news), "KPARALLEL_LEAVE": str(its_leave)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kparallel.launcher.bootstrap", *command),
            env={**environment, **own},
            stdin=asyncio.subprocess.DEVNULL if relays else None,
            stdout=relays[0].source if relays else None,
            stderr=relays[1].source if relays else None,
            pass_fds=(its_report, its_news, its_leave),
            start_new_session=True,
        )
    for each in relays:
        each.start()
    worker = Worker(name, process, report, news, leave, relays, heard)
    asyncio.get_running_loop().add_reader(report, worker.listen)
    return worker
