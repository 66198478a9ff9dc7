"""What a worker and the launcher that started it tell each other, over pipes that the environment names.

```text
launcher ──KPARALLEL_LEAVE───► worker     a byte: leave after the next checkpoint
         ◄──KPARALLEL_REPORT──            a line of JSON: a checkpoint, or why the worker fails
```
"""

import json
import os
import select
from collections.abc import Mapping
from typing import Any

__all__: list[str] = []


def send_to_launcher(message: Mapping[str, Any]) -> None:
    """Tell the launcher something; do nothing without one, or in a process that a worker has started.

    Args:
        message: JSON can hold it; at most 64 KB.
    """
    descriptor = _descriptor("KPARALLEL_REPORT")
    if descriptor is not None:
        os.write(descriptor, json.dumps(message).encode() + b"\n")


def report_checkpoint(event: str, epoch: int, step: int) -> None:
    """Tell the launcher where a run that begins anew would go on.

    Args:
        event: `"written"`, or `"resumed"` for one that was read.
        epoch: The epoch, from 0.
        step: How many of its steps are done.
    """
    send_to_launcher({"checkpoint": event, "epoch": epoch, "step": step})


def leave_is_asked() -> bool:
    """Return whether the launcher asks the workers to leave, because their number is to change."""
    descriptor = _descriptor("KPARALLEL_LEAVE")
    if descriptor is None:
        return False
    pipe = select.poll()
    pipe.register(descriptor, select.POLLIN)
    # The byte is not read, so that every later call sees it too.
    return any(event & select.POLLIN for _, event in pipe.poll(0))


def _descriptor(name: str) -> int | None:
    """Return a pipe of this worker's. In its children the number may be another file's."""
    # A child of the worker inherits the variable, but the launcher is not its parent.
    if os.environ.get("KPARALLEL_LAUNCHER") != str(os.getppid()) or name not in os.environ:
        return None
    return int(os.environ[name])
