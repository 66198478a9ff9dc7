"""What a program may ask the server of another machine: its time, memory and cores, and a profile of its devices.

```text
program ──{"ask": "record"}──►  server        starts TensorFlow's profiler
        ◄──{"answer": ""}──
        ──{"ask": "clock"}───►                its wall clock in nanoseconds, for the profiles' times
        ──{"ask": "stop"}────►                stops the profiler; the answer is the folder with the profile,
        ◄──{"answer": "/tmp/…"}──             which the program reads through TensorFlow
        ──{"ask": "drop"}────►                removes the folder
```
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping

import tensorflow as tf

from kparallel.compat.profiler import start_profiler
from kparallel.machines.memory import Memory, process_memory

__all__: list[str] = []

Answer = int | str | list[int]

CLOCK, MEMORY, CORES, RECORD, STOP, DROP = "clock", "memory", "cores", "record", "stop", "drop"


class Requests:
    """Answers the program's requests, one at a time, on the server."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._runs = False
        self._answers: Mapping[str, Callable[[], Answer]] = {
            CLOCK: time.time_ns,
            MEMORY: lambda: memory_answer(process_memory()),
            CORES: lambda: sorted(os.sched_getaffinity(0)),
            RECORD: self._record,
            STOP: self._stop,
            DROP: self._drop,
        }

    def answer(self, request: str) -> Answer:
        """Return the answer to a request; an empty text where the program asks what this server does not know."""
        answer = self._answers.get(request)
        return "" if answer is None else answer()

    def _record(self) -> str:
        self._drop()
        self._folder = tempfile.TemporaryDirectory(prefix="kparallel-trace-")
        start_profiler(self._folder.name)
        self._runs = True
        return ""

    def _stop(self) -> str:
        """Write the profile, and return its folder; an empty text where none was recorded."""
        if self._folder is None or not self._runs:
            return ""
        self._runs = False
        tf.profiler.experimental.stop()
        return self._folder.name

    def _drop(self) -> str:
        if self._runs:
            self._runs = False
            tf.profiler.experimental.stop(save=False)
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None
        return ""


def memory_answer(memory: Memory) -> list[int]:
    """Return what a process holds as numbers that a message can carry."""
    return [memory.now, memory.most]
