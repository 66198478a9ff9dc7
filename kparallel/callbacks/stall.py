"""A watchdog for training that stands still."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kparallel.barrier import to_stderr
from kparallel.cluster import Cluster, read_cluster

__all__: list[str] = []


class StallWatchdog(keras.callbacks.Callback):  # type: ignore[misc]
    """Say it when no step has finished for a while, and which worker has not reached which step.

    A thread of each worker writes a sign of life once a second: its step, and when it reached that step. With a
    directory that all workers share, each reads the others' signs: a worker that has frozen stops giving them, one
    that is merely slow gives them and lags behind.

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
        self._busy = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Start to watch."""
        self._over = threading.Event()
        self._note(0)
        self._thread = threading.Thread(target=self._watch, args=(self._over,), name="kparallel-stall", daemon=True)
        self._thread.start()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """A step begins; what came before it, such as tracing a validation, is no stall of training."""
        self._reached = time.monotonic()
        self._busy = True

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
        behind = self._others(seen)
        if behind:
            return f"stall seen by worker {self._cluster.index} at step {self._step}: " + ", ".join(behind)
        if own < self._seconds:
            return ""
        return f"worker {self._cluster.index} has not finished step {self._step}: nothing for {own:.0f} s"

    def _others(self, seen: dict[int, tuple[str, float]]) -> list[str]:
        """Return in words which of the other workers are silent or behind."""
        if self._directory is None:
            return []
        now, found = time.monotonic(), []
        for index, address in enumerate(self._cluster.workers):
            if index == self._cluster.index:
                continue
            try:
                text = self._sign(index).read_text()
                step, waited = json.loads(text)["step"], json.loads(text)["seconds"]
            except (OSError, ValueError):
                continue  # Not begun yet, or in the middle of writing.
            # Its age is measured on this worker's clock: the moment at which the text was last seen to change.
            if seen.get(index, ("", 0.0))[0] != text:
                seen[index] = (text, now)
            silent = now - seen[index][1]
            if silent >= self._seconds:
                found.append(f"worker {index} ({address}) has given no sign of life for {silent:.0f} s, at step {step}")
            elif step < self._step and waited >= self._seconds:
                found.append(f"worker {index} ({address}) has not finished step {step}: nothing for {waited:.0f} s")
        return found

    def _give_sign(self) -> None:
        if self._directory is None:
            return
        sign = {"step": self._step, "seconds": time.monotonic() - self._reached, "time": time.time()}
        path = self._sign(self._cluster.index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(json.dumps(sign))
            new.replace(path)
        except OSError as error:  # Training goes on without the watchdog.
            print(f"kparallel: the stall watchdog cannot write {path}: {error}", file=sys.stderr)

    def _sign(self, index: int) -> Path:
        assert self._directory is not None
        return self._directory / f"worker-{index}.json"
