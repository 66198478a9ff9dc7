"""A gang of workers on this machine: started together, watched, and ended together."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kparallel.launch.output import Relay

__all__: list[str] = []

# Seconds in which other workers may still end by themselves after one failed: longer where one of them caused that.
_MOMENT = 0.5
_PATIENCE = 3.0


@dataclass(frozen=True)
class Launch:
    """What is started.

    Args:
        command: A script's path, or `-m` and a module's name, then its arguments.
        environments: Each worker's environment variables.
        names: Each worker's index, as it stands before its lines of output.
        grace: Seconds that workers have to end by themselves once they are asked to.
    """

    command: tuple[str, ...]
    environments: tuple[Mapping[str, str], ...]
    names: tuple[int, ...]
    grace: float


@dataclass(frozen=True)
class Ending:
    """How a gang ended.

    Args:
        code: The exit code of the first worker that failed, 0 where all succeeded.
        reason: A line that says which worker failed and how; empty where all succeeded or a signal came.
        traceback: That worker's traceback, where it raised.
        signalled: Whether a signal to the launcher ended it.
    """

    code: int
    reason: str = ""
    traceback: str = ""
    signalled: bool = False


def run_gang(launch: Launch) -> Ending:
    """Start the workers, relay their output and wait for all; where one fails, end the others.

    SIGINT and SIGTERM are passed on to the workers. Who does not end within the grace is killed, with every process
    in its group.

    Args:
        launch: What is started.
    """
    with tempfile.TemporaryDirectory(prefix="kparallel-") as folder:
        return asyncio.run(_Gang(launch, Path(folder)).run())


class _Worker:
    """One worker's process."""

    def __init__(self, name: int, process: asyncio.subprocess.Process, report: Path, relays: Sequence[Relay]) -> None:
        self.name = name
        self.process = process
        self._report = report
        self._relays = relays
        self.ended = 0.0

    async def wait(self) -> int:
        """Wait for the process, and for the last of its output."""
        code = await self.process.wait()
        self.ended = time.time()
        self.send(signal.SIGKILL)  # What it left behind in its group.
        await asyncio.gather(*(relay.end() for relay in self._relays))
        return code

    def send(self, number: int) -> None:
        """Send a signal to the process and to all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def failure(self) -> tuple[bool, float, str]:
        """Return whether another worker's failure caused this one's, when it came, and the traceback."""
        try:
            report = json.loads(self._report.read_text())
        except (OSError, ValueError):  # It was killed, perhaps while it wrote.
            return False, self.ended, ""
        return bool(report["consequence"]), float(report["time"]), str(report["traceback"])


class _Gang:
    """The workers of one start."""

    def __init__(self, launch: Launch, folder: Path) -> None:
        self._launch = launch
        self._folder = folder
        self._workers: list[_Worker] = []
        self._signal = 0
        self._asked: set[int] = set()
        self._signalled = asyncio.Event()

    async def run(self) -> Ending:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._pass_on, number)
        try:
            for index in range(len(self._launch.environments)):
                if not self._signal:
                    self._workers.append(await self._start(index))
            return await self._watch()
        finally:
            for worker in self._workers:
                worker.send(signal.SIGKILL)

    async def _start(self, index: int) -> _Worker:
        name = self._launch.names[index]
        report = self._folder / f"{name}.json"
        own = {"KPARALLEL_LAUNCHER": str(os.getpid()), "KPARALLEL_REPORT": str(report), "PYTHONUNBUFFERED": "1"}
        many = len(self._launch.environments) > 1
        relays = [Relay(stream, f"[{name}] ") for stream in (sys.stdout, sys.stderr)] if many else []
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kparallel.launch.bootstrap", *self._launch.command),
            env={**self._launch.environments[index], **own},
            stdin=asyncio.subprocess.DEVNULL if many else None,
            stdout=relays[0].source if many else None,
            stderr=relays[1].source if many else None,
            start_new_session=True,
        )
        for each in relays:
            await each.start()
        return _Worker(name, process, report, relays)

    async def _watch(self) -> Ending:
        waits = {asyncio.create_task(worker.wait()): worker for worker in self._workers}
        running = set(waits)
        asked = asyncio.create_task(self._signalled.wait())
        failed: list[_Worker] = []
        while running and not failed and not self._signal:
            done, _ = await asyncio.wait([*running, asked], return_when=asyncio.FIRST_COMPLETED)
            running -= done
            failed += [waits[task] for task in done if task is not asked and task.result() != 0]
        asked.cancel()
        if running:
            consequence = all(worker.failure()[0] for worker in failed)
            failed += await self._end(running, waits, _PATIENCE if consequence else _MOMENT)
        if self._signal:
            return Ending(128 + self._signal, signalled=True)
        return _ending(failed) if failed else Ending(0)

    async def _end(
        self, running: set[asyncio.Task[int]], waits: Mapping[asyncio.Task[int], _Worker], patience: float
    ) -> list[_Worker]:
        """End the workers that still run; return those that had failed by themselves meanwhile."""
        if not self._signal:
            # A worker may have failed before the first to end did, but take longer to end.
            done, running = await asyncio.wait(running, timeout=patience)
            by_themselves = [waits[task] for task in done if task.result() != 0]
            for task in running:
                waits[task].send(signal.SIGTERM)
        else:
            by_themselves = []
        if running:
            _, running = await asyncio.wait(running, timeout=self._launch.grace)
        for task in running:
            waits[task].send(signal.SIGKILL)
        if running:
            await asyncio.wait(running)
        return by_themselves

    def _pass_on(self, number: int) -> None:
        """Pass a signal on; the second Ctrl-C kills."""
        number = signal.SIGKILL if self._signal == number == signal.SIGINT else number
        if number != signal.SIGKILL:
            self._signal = number
        for worker in self._workers:
            worker.send(number)
        self._signalled.set()


def _ending(failed: Sequence[_Worker]) -> Ending:
    first = min(failed, key=lambda worker: worker.failure()[:2])
    code = first.process.returncode or 1
    if code < 0:
        return Ending(128 - code, f"worker {first.name} was ended by {signal.Signals(-code).name}")
    return Ending(code, f"worker {first.name} failed with exit code {code}", first.failure()[2])
