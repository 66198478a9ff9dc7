"""Profiles of all machines of one program, on one clock.

TensorFlow's profiler records the process that it runs in. So each server runs its own, from the program's request to
start it to that to stop it, and the program reads what the servers wrote through TensorFlow.

```text
program   ├──────── its own profile ────────┤   moment 0 of what is read
server    ├─────────── its profile ────────────┤
          its times, on its own wall clock ──► minus what its clock is ahead ──► minus the wall clock at moment 0
```
"""

import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from kparallel.compat.profiler import read_profile, wall_clock
from kparallel.machines.program import Program
from kparallel.machines.requests import CLOCK, DROP, RECORD, STOP
from kparallel.mesh import full_device_name
from kparallel.trace.events import Event

__all__: list[str] = []

_TRIES = 5  # Questions for the time, of which the one that is answered fastest counts.


def host_device(worker: int) -> str:
    """Return TensorFlow's name of the CPU of a worker."""
    return full_device_name(f"worker{worker}/CPU:0")


class ServerProfiles:
    """Records what the servers do, beside the profiler of this process.

    Args:
        program: Knows the servers.
        device_of: Returns the device on which a worker's files are read, by the worker's index.
    """

    def __init__(self, program: Program, device_of: Callable[[int], str] = host_device) -> None:
        self._program = program
        self._device_of = device_of

    def start(self) -> None:
        """Start the profilers of all servers."""
        self._program.ask(RECORD)

    def stop(self) -> dict[int, list[bytes]]:
        """Stop them, and return their profiles, by the index of the worker."""
        folders = self._program.ask(STOP)
        try:
            return {index: list(_read(self._device_of(index), folder)) for index, folder in folders.items() if folder}
        finally:
            self._program.ask(DROP)

    def drop(self) -> None:
        """Stop the profilers, and forget what they recorded."""
        self._program.ask(DROP)

    def clocks_ahead(self) -> dict[int, int]:
        """Return by how many nanoseconds each server's wall clock is ahead of this machine's.

        The answer is right to half of the time between question and answer.
        """
        best: dict[int, tuple[int, int]] = {}
        for _ in range(_TRIES):
            before = time.time_ns()
            answers = self._program.ask(CLOCK)
            after = time.time_ns()
            for index, clock in answers.items():
                took = after - before, clock - (before + after) // 2
                best[index] = min(best.get(index, took), took)
        return {index: ahead for index, (_, ahead) in best.items()}


def events_of(own: Sequence[bytes], servers: dict[int, list[bytes]], ahead: dict[int, int]) -> Iterator[Event]:
    """Yield the events of this process and of all servers, on this process's clock.

    Args:
        own: The profiles of this process, of which TensorFlow writes one for a host.
        servers: Those of the servers, by the index of the worker.
        ahead: By how many nanoseconds their clocks are ahead.
    """
    for profile in own:
        yield from read_profile(profile)
    begin = wall_clock(own[0]) if own else 0
    for index, profiles in servers.items():
        for profile in profiles:
            later = (wall_clock(profile) - ahead.get(index, 0) - begin) * 1e-9
            yield from read_profile(profile, f"worker{index}/", later)


def _read(device: str, folder: str) -> Iterator[bytes]:
    """Yield the profiles in a folder on the machine of a device."""
    with tf.device(device):
        for path in tf.io.matching_files(f"{folder}/plugins/profile/*/*.xplane.pb"):
            yield tf.io.read_file(path).numpy()
