"""A gang of workers on this machine: started together, watched, and ended together."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kparallel.launcher import guard
from kparallel.launcher.output import Outlet, Relay
from kparallel.launcher.worker import Worker, start_worker

__all__: list[str] = []

# Seconds in which other workers may still end by themselves after one failed: longer where one of them caused that.
_MOMENT = 0.5
_PATIENCE = 3.0
PREEMPTED = 75  # The exit code of workers that left after a checkpoint, as a notice asked them to.
_DRAIN = 1.0  # Seconds that a signalled launcher waits for whoever reads its output.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def _stay(message: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True)
class Launch:
    """What is started.

    Args:
        command: A script's path, or `-m` and a module's name, then its arguments.
        environments: Each worker's environment variables.
        names: Each worker's index, as it stands before its lines of output.
        grace: Seconds that workers have to end by themselves once they are asked to.
        heard: Takes what the chief reports of a checkpoint, as `report_checkpoint` makes it; returns whether the
            workers are to leave after the next one. Default: they stay.
    """

    command: tuple[str, ...]
    environments: tuple[Mapping[str, str], ...]
    names: tuple[int, ...]
    grace: float
    heard: Callable[[Mapping[str, Any]], bool] = _stay


@dataclass(frozen=True)
class Ending:
    """How a gang ended.

    Args:
        code: The exit code of the first worker that failed, 0 where all succeeded.
        reason: A line that says which worker failed and how; empty where all succeeded or a signal came.
        traceback: That worker's traceback, where it raised.
        signalled: Whether a signal to the launcher ended it.
        worker: The index of the first worker that failed, or None.
        lost: The workers that were lost, by no fault of the script's as far as one can see: killed, or frozen.
        consequence: Whether another worker's failure, perhaps on another machine, caused this one.
    """

    code: int
    reason: str = ""
    traceback: str = ""
    signalled: bool = False
    worker: int | None = None
    lost: tuple[int, ...] = ()
    consequence: bool = False


def run_gang(launch: Launch) -> Ending:
    """Start the workers, relay their output and wait for all; where one fails, end the others.

    SIGINT and SIGTERM are passed on to the workers, SIGHUP and SIGQUIT as SIGTERM; SIGHUP not under `nohup`. Who does
    not end within the grace is killed, with every process in its group. If this process is killed, a guard does that.

    Args:
        launch: What is started.
    """
    with guarding() as note:
        return asyncio.run(Gang(launch, note, console(launch)).run(SIGNALS))


def console(launch: Launch) -> list[Outlet]:
    """Return what takes the workers' output: this process's stdout and stderr, or nothing where one worker has them."""
    if len(launch.environments) == 1:
        return []
    return [Outlet(sys.stdout, _losing("stdout")), Outlet(sys.stderr, _losing("stderr"))]


@contextlib.contextmanager
def guarding() -> Iterator[Callable[[str], None]]:
    """Start the guard; yield what writes it a line, as a `Gang` takes it."""
    # Without `-I -S` it would take as long to start as a worker.
    command = [sys.executable, "-I", "-S", str(Path(guard.__file__))]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True)
    assert process.stdin is not None
    pipe = process.stdin

    def note(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.write(f"{line}\n".encode())
            pipe.flush()

    try:
        yield note
    finally:
        process.kill()
        process.communicate()


class Gang:
    """The workers of one start.

    Args:
        launch: What is started.
        note: Writes the guard a line.
        outlets: Take the workers' stdout and stderr; none to let a single worker have this process's, stdin too.
    """

    def __init__(self, launch: Launch, note: Callable[[str], None], outlets: Sequence[Outlet]) -> None:
        self._launch = launch
        self._note = note
        self._outlets = outlets
        self._workers: list[Worker] = []
        self._signal = 0
        self._signalled = asyncio.Event()
        self._stopped = asyncio.Event()

    def ask_to_leave(self) -> None:
        """Ask the workers to leave after a checkpoint. One that is asked is enough: all agree on it."""
        if self._workers:
            self._workers[0].ask_to_leave()

    def stop(self) -> None:
        """End the workers as if one had failed: those on another machine have."""
        self._stopped.set()

    async def run(self, signals: Sequence[signal.Signals] = ()) -> Ending:
        """Start the workers and wait for all.

        Args:
            signals: Those to this process that are passed on to the workers. Only a main thread can.
        """
        loop = asyncio.get_running_loop()
        for number in signals:
            if signal.getsignal(number) != signal.SIG_IGN:  # As nohup leaves SIGHUP.
                loop.add_signal_handler(number, self.pass_on, number)
        try:
            for index in range(len(self._launch.environments)):
                if not self._signal:
                    self._workers.append(await self._start(index))
            return await self._watch()
        finally:
            for worker in self._workers:
                if worker.process.returncode is None:
                    worker.send(signal.SIGKILL)
            for number in signals:
                loop.remove_signal_handler(number)

    async def _start(self, index: int) -> Worker:
        name = self._launch.names[index]
        prefix = f"[{name}] " if len(self._launch.environments) > 1 else ""
        relays = [Relay(outlet, prefix) for outlet in self._outlets]
        environment = self._launch.environments[index]
        worker = await start_worker(name, self._launch.command, environment, relays, self._heard)
        self._note(f"+{worker.process.pid}")
        return worker

    def _heard(self, message: Mapping[str, Any]) -> None:
        """Take what a worker reports of a checkpoint."""
        if self._launch.heard(message):
            self.ask_to_leave()

    async def _ended(self, worker: Worker) -> int:
        """Wait for a worker's end; let the others know of one that ended without a failure."""
        code = await worker.wait()
        self._note(f"-{worker.process.pid}")
        if code == 0:
            for other in self._workers:
                other.tell(worker.name)
        return code

    async def _watch(self) -> Ending:
        waits = {asyncio.create_task(self._ended(worker)): worker for worker in self._workers}
        running = set(waits)
        asked = asyncio.create_task(self._signalled.wait())
        stopped = asyncio.create_task(self._stopped.wait())
        failed: list[Worker] = []
        frozen: list[Worker] = []
        while running and not failed and not self._signal and not self._stopped.is_set():
            done, _ = await asyncio.wait([*running, asked, stopped], return_when=asyncio.FIRST_COMPLETED)
            running -= done
            failed += [worker for task, worker in waits.items() if task in done and task.result() != 0]
        if running:
            consequence = all(worker.failure()[0] for worker in failed)
            by_themselves, ended = await self._end(running, waits, _PATIENCE if consequence else _MOMENT)
            failed += by_themselves
            frozen = ended if all(worker.failure()[0] for worker in failed) else []
        await self._drain(asked)
        for task in (asked, stopped):
            task.cancel()
        if self._signal:
            return self._ending_by_signal()
        if not failed and any(worker.process.returncode for worker in self._workers):
            names = tuple(worker.name for worker in frozen)
            return Ending(128 + signal.SIGTERM, "another worker was lost", lost=names, consequence=True)
        return _ending(failed, frozen) if failed else Ending(0)

    def _ending_by_signal(self) -> Ending:
        codes = {worker.process.returncode for worker in self._workers}
        if len(self._workers) < len(self._launch.environments) or not codes <= {0, PREEMPTED}:
            return Ending(128 + self._signal, signalled=True)
        # Workers that had finished before they looked for the signal have done all that they were started for.
        return Ending(PREEMPTED if PREEMPTED in codes else 0, signalled=True)

    async def _end(
        self, running: set[asyncio.Task[int]], waits: Mapping[asyncio.Task[int], Worker], patience: float
    ) -> tuple[list[Worker], list[Worker]]:
        """End the workers that still run; return those that had failed by themselves meanwhile, and the others."""
        asked: list[Worker] = []
        if not self._signal:
            # A worker may have failed before the first to end did, but take longer to end.
            done, running = await asyncio.wait(running, timeout=patience)
            by_themselves = [waits[task] for task in done if task.result() != 0]
            asked = [waits[task] for task in running]
            for worker in asked:
                worker.send(signal.SIGTERM)
        else:
            by_themselves = []
        if running:
            _, running = await asyncio.wait(running, timeout=self._launch.grace)
        for task in running:
            waits[task].send(signal.SIGKILL)
        if running:
            await asyncio.wait(running)
        return by_themselves, asked

    async def _drain(self, asked: asyncio.Task[Literal[True]]) -> None:
        """Wait until the workers' last output is written; after a signal not for a reader that stands still."""
        relays = [relay for worker in self._workers for relay in worker.relays]
        writing = {asyncio.create_task(relay.copied()) for relay in relays}
        while writing and not self._signal:
            await asyncio.wait([*writing, asked], return_when=asyncio.FIRST_COMPLETED)
            writing = {task for task in writing if not task.done()}
        if writing:
            await asyncio.wait(writing, timeout=_DRAIN)
        for task in writing:
            task.cancel()

    def pass_on(self, number: int) -> None:
        """Pass a signal on; the second Ctrl-C kills."""
        again = self._signal == number == signal.SIGINT
        self._signal = number
        passed = signal.SIGKILL if again else number if number == signal.SIGINT else signal.SIGTERM
        for worker in self._workers:
            if worker.process.returncode is None:
                worker.send(passed)
        self._signalled.set()


def _ending(failed: Sequence[Worker], frozen: Sequence[Worker]) -> Ending:
    # A cause before a consequence (False sorts first), and then by time.
    first = min(failed, key=lambda worker: worker.failure()[:2])
    code = first.process.returncode or 1
    if code == PREEMPTED:
        return Ending(code, f"worker {first.name} was asked to leave, and left after its last checkpoint")
    if code < 0:
        reason = f"worker {first.name} was ended by {_signal_name(-code)}"
        return Ending(128 - code, reason, worker=first.name, lost=(first.name,))
    consequence, _, traceback = first.failure()
    lost = tuple(worker.name for worker in frozen)
    reason = f"worker {first.name} failed with exit code {code}"
    return Ending(code, reason, traceback, worker=first.name, lost=lost, consequence=consequence)


def _signal_name(number: int) -> str:
    """Return a signal's name; real-time signals have none of their own but for the first and the last."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"signal {number}"


def _losing(name: str) -> Callable[[OSError], None]:
    """Return what says, once, that a stream of the launcher's takes nothing any more."""

    def say(error: OSError) -> None:
        line = (
            f"kparallel: {name} cannot be written ({error}); the workers train on, and what they print there is lost\n"
        )
        with contextlib.suppress(OSError):
            os.write(2, line.encode())

    return say
