"""SIGTERM as a notice that the machine will go: training ends at the next step, behind a checkpoint."""

import signal
import threading
from typing import Any

__all__: list[str] = []

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later.


class Preempted(SystemExit):
    """Ends the program after a notice, its last step in a checkpoint."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class Notice:
    """Notes a SIGTERM, instead of what it does otherwise, while training runs in the main thread."""

    def __init__(self) -> None:
        self.is_given = False
        self._before: Any = None
        self._listens = False

    def listen(self) -> None:
        """Begin to listen."""
        if not self._listens and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
            self._listens = True

    def stop(self) -> None:
        """Let SIGTERM do again what it did before."""
        if self._listens:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            self._listens = False

    def _note(self, number: int, frame: Any) -> None:
        self.is_given = True
