"""The parent's side: arms are processes that stay, and are asked in turn; while one runs, the others wait on a read."""

import contextlib
import json
import os
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kparallel.cluster import ONE_PROGRAM

__all__: list[str] = []

ROOT = Path(__file__).parents[2]
# glibc gives large blocks back to the kernel and clears them anew at each step unless it is told to keep them.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
_OF_THE_ARM = ("TF_CONFIG", ONE_PROGRAM, *ALLOCATOR)  # not to be inherited
_START = 170.0  # seconds until an arm has to be ready
_ANSWER = 120.0  # seconds until it has to have run


class ArmError(RuntimeError):
    """An arm ended, or did not answer in time."""


@dataclass(frozen=True)
class Process:
    """One process of an arm.

    Args:
        module: What it runs, such as `"examples.benchmarks.keras_arm"`.
        options: Told to it; JSON.
        cores: The cores it may use.
        python: The interpreter; default this one.
        environment: Added to the common one.
        allocator: `"keeping"`, glibc told to keep large blocks, or `"default"`, glibc as it is.
    """

    module: str
    options: Mapping[str, Any]
    cores: Sequence[int]
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)
    allocator: str = "keeping"


@dataclass(frozen=True)
class Sample:
    """One measurement; of an arm's processes the slowest one's time, and the mean of their CPU times.

    Args:
        seconds: For each step.
        user, system: CPU seconds for each step.
        idle: CPU seconds while the arm waited for its turn; nearly none, or it disturbs the others.
    """

    seconds: float
    user: float
    system: float
    idle: float


class Arm:
    """Started processes that run steps together.

    Args:
        name: For errors and the log.
        processes: One, or one for each worker.
        log: A folder for what they print.
    """

    def __init__(self, name: str, processes: Sequence[Process], log: str) -> None:
        self.name = name
        self.facts: dict[str, Any] = {}
        self._log = [Path(log) / f"{name}.{index}.log" for index in range(len(processes))]
        self._children = [_start(process, file) for process, file in zip(processes, self._log, strict=True)]

    def wait(self, seconds: float = _START) -> None:
        """Wait until every process is ready."""
        self.facts = self._answers(seconds)[0]

    def run(self, steps: int, variant: str = "") -> Sample:
        """Run steps on all processes at once."""
        for child in self._children:
            child.stdin.write(json.dumps({"steps": steps, "variant": variant}) + "\n")
            child.stdin.flush()
        answers = self._answers(_ANSWER)
        user, system, idle = (statistics.fmean(a[key] for a in answers) for key in ("user", "system", "idle"))
        return Sample(max(answer["seconds"] for answer in answers) / steps, user / steps, system / steps, idle)

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            with contextlib.suppress(OSError):
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()

    def _answers(self, seconds: float) -> list[dict[str, Any]]:
        end = time.monotonic() + seconds
        return [self._answer(index, end) for index in range(len(self._children))]

    def _answer(self, index: int, end: float) -> dict[str, Any]:
        child = self._children[index]
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            ready = selector.select(max(0.0, end - time.monotonic()))
        line = child.stdout.readline() if ready else ""
        if not line:
            state = f"ended with {child.wait()}" if ready else "did not answer in time"
            raise ArmError(f"Process {index} of arm {self.name!r} {state}:\n{self._log[index].read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _start(process: Process, log: Path) -> Any:
    options = {**process.options, "cores": list(process.cores), "parent": os.getpid()}
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_THE_ARM}
    environment = {**inherited, **ALLOCATOR, **_ENVIRONMENT, **process.environment}
    if process.allocator == "default":
        environment = {name: value for name, value in environment.items() if name not in ALLOCATOR}
    with log.open("w") as errors:
        return subprocess.Popen(
            [process.python, "-m", process.module, json.dumps(options)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


@contextlib.contextmanager
def running(arms: Mapping[str, Sequence[Process]], log: str, seconds: float = _START) -> Iterator[dict[str, Arm]]:
    """Start all arms, wait until they are ready, and end them however the block ends.

    Args:
        arms: By name, the processes of each.
        log: A folder for what they print.
        seconds: Until an arm has to be ready.
    """
    started: dict[str, Arm] = {}
    try:
        for name, processes in arms.items():
            started[name] = Arm(name, processes, log)
        for arm in started.values():
            arm.wait(seconds)
        yield started
    finally:
        for arm in started.values():
            arm.close()
