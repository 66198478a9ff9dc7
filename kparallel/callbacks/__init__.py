"""Callbacks for any Keras model, wrapped or plain; they load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kparallel.callbacks.ray_report import RayReport
    from kparallel.callbacks.stall import StallWatchdog
    from kparallel.callbacks.throughput import Throughput
    from kparallel.callbacks.trace import Trace
    from kparallel.callbacks.warmup import Warmup
    from kparallel.resume.checkpoint import Checkpoint

__all__ = ["Checkpoint", "RayReport", "StallWatchdog", "Throughput", "Trace", "Warmup"]

_HOMES = {
    "Checkpoint": "kparallel.resume.checkpoint",
    "RayReport": "kparallel.callbacks.ray_report",
    "StallWatchdog": "kparallel.callbacks.stall",
    "Throughput": "kparallel.callbacks.throughput",
    "Trace": "kparallel.callbacks.trace",
    "Warmup": "kparallel.callbacks.warmup",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kparallel.callbacks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
