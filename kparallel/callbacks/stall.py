"""A watchdog for training that stands still."""

import json
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import kparallel
from kparallel.cluster import Cluster, read_cluster
from kparallel.rendezvous import to_stderr

__all__: list[str] = []

_OWN = str(Path(kparallel.__file__).parent)
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


class StallWatchdog(keras.callbacks.Callback):  # type: ignore[misc]
    """Say it when no step has finished for a while, and which worker has not reached which step.

    A thread of each worker writes a sign of life once a second: its step, and when it reached that step. With a
    directory that all workers share, each reads the others' signs: a worker that has frozen stops giving them, one
    that is merely slow gives them and lags behind. Training is synchronous, so mostly all stand at one step: the line
    of code at which each stands then tells who keeps the others waiting.

    Args:
        seconds: How long a step, or a worker's silence, may take before it counts as a stall; 60 by default.
        directory: A directory that all workers share, for their signs of life. Default: none, each worker watches
            its own steps only.
        report: Takes the message; prints to stderr by default. Called once for each stall.
        interval: Seconds between signs of life.

    Raises:
        ValueError: `seconds` is not above `interval`, or `interval` not above 0.

    Example:
        >>> watchdog = StallWatchdog(seconds=120)
    """

    def __init__(
        self,
        seconds: float = 60.0,
        directory: str | os.PathLike[str] | None = None,
        report: Callable[[str], None] = to_stderr,
        interval: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < interval < seconds:
            raise ValueError(f"Expected 0 < interval < seconds, received interval={interval}, seconds={seconds}.")
        self._seconds = seconds
        self._directory = None if directory is None else Path(directory)
        self._report = report
        self._interval = interval
        self._cluster = read_cluster() or Cluster(("localhost:1",), 0)
        self._step = 0
        self._reached = time.monotonic()
        self._trainer = threading.get_ident()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Start to watch."""
        self._over = threading.Event()
        self._trainer = threading.get_ident()
        self._note(0)
        self._thread = threading.Thread(target=self._watch, args=(self._over,), name="kparallel-stall", daemon=True)
        self._thread.start()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """A step begins; what came before it, such as tracing a validation, is no stall of training."""
        self._reached = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A step is reached."""
        self._note(self._step + 1)

    def on_train_end(self, logs: Any = None) -> None:
        """Stop to watch."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def _note(self, step: int) -> None:
        self._step, self._reached = step, time.monotonic()

    def _watch(self, over: threading.Event) -> None:
        # `key` names worker and step, without the seconds, which change: so each stall is told once.
        told: set[str] = set()
        seen: dict[int, tuple[str, float]] = {}
        model = self.model  # Not of a fit that failed long ago: its thread ends with the process, or by the next one.
        while not over.wait(self._interval) and self.model is model:
            self._give_sign()
            message = self._stall(seen)
            key = message.split(":")[0]
            if message and key not in told:
                self._report(message)
            told = {key} if message else set()

    def _stall(self, seen: dict[int, tuple[str, float]]) -> str:
        """Return in words who stands still, or nothing."""
        own = time.monotonic() - self._reached
        # Another worker first: where one is silent or behind, this one only waits for it.
        behind = self._others(seen)
        if behind:
            return f"stall seen by worker {self._cluster.index} at step {self._step}: " + ", ".join(behind)
        # Nobody is seen to be behind. Then the worker's own step counts.
        if own < self._seconds:
            return ""
        who = f"worker {self._cluster.index} has not finished step {self._step}"
        who += f": nothing for {own:.0f} s, at {self._place()}"
        return "; ".join([who, *self._others(seen, alike=True)])

    def _others(self, seen: dict[int, tuple[str, float]], alike: bool = False) -> list[str]:
        """Return in words which of the other workers are silent or behind, or which stand where this one does."""
        if self._directory is None:
            return []
        now, found = time.monotonic(), []
        for index, address in enumerate(self._cluster.workers):
            if index == self._cluster.index:
                continue
            try:
                text = self._sign(index).read_text()
                sign = json.loads(text)
                step, waited, place = sign["step"], sign["seconds"], sign["place"]
            except (OSError, ValueError, KeyError):
                continue  # Not begun yet, or in the middle of writing.
            # Its age is measured on this worker's clock: the moment at which the text was last seen to change.
            if seen.get(index, ("", 0.0))[0] != text:
                seen[index] = (text, now)
            silent = now - seen[index][1]
            if alike:
                found += [f"nor has worker {index} ({address}), at {place}"] if step == self._step else []
            elif silent >= self._seconds:
                found.append(f"worker {index} ({address}) has given no sign of life for {silent:.0f} s, at step {step}")
            elif step < self._step and waited >= self._seconds:
                found.append(
                    f"worker {index} ({address}) has not finished step {step}: nothing for {waited:.0f} s, at {place}"
                )
        return found

    def _give_sign(self) -> None:
        if self._directory is None:
            return
        waited = time.monotonic() - self._reached
        sign = {"step": self._step, "seconds": waited, "place": self._place(), "time": time.time()}
        path = self._sign(self._cluster.index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Renamed at once, so that a reader sees an old sign or a new one, and never half of one.
            new = path.with_suffix(".new")
            new.write_text(json.dumps(sign))
            new.replace(path)
        except OSError as error:  # Training goes on without the watchdog.
            print(f"kparallel: the stall watchdog cannot write {path}: {error}", file=sys.stderr)

    def _sign(self, index: int) -> Path:
        assert self._directory is not None
        return self._directory / f"worker-{index}.json"

    def _place(self) -> str:
        """Return the line at which training stands, the innermost that is not of a library."""
        # From the innermost frame outwards, to the first that is the user's or kparallel's.
        innermost = frame = sys._current_frames().get(self._trainer)
        while frame is not None and _is_library(frame.f_code.co_filename):
            frame = frame.f_back
        frame = frame or innermost
        if frame is None:
            return "its end"
        return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"


def _is_library(file: str) -> bool:
    return not file.startswith(_OWN) and (file.startswith(("<frozen", *_LIBRARIES)))
