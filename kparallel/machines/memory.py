"""The memory that this process has of the machine's."""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

__all__: list[str] = []


@dataclass(frozen=True)
class Memory:
    """What one process holds in the host's memory, in bytes; the memory of GPUs is not counted.

    Args:
        now: At this moment.
        most: At its peak.
    """

    now: int
    most: int


def process_memory(status: Path = Path("/proc/self/status")) -> Memory:
    """Return what this process holds.

    Args:
        status: Linux's file. Where there is none, the peak stands for both.

    Example:
        >>> 0 < process_memory().now <= process_memory().most
        True
    """
    try:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        # Linux counts in kibibytes. `VmHWM` starts anew where a process starts a program, unlike `ru_maxrss`.
        now, most = (1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
        return Memory(now, most)
    except (OSError, KeyError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Memory(most, most)
