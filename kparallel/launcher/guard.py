"""A process that ends what a killed launcher leaves behind; it is run as a file of its own and loads next to nothing.

The launcher writes `+number` for each process group that it starts and `-number` for each that has ended. When the
launcher is gone, however that came, its pipe ends, and the groups that are left are killed.
"""

import contextlib
import os
import signal
import sys

__all__: list[str] = []


def main() -> None:
    """Wait for the launcher's end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
