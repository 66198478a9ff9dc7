"""A notice that training is to end at the next step, after a checkpoint: SIGTERM, or the launcher's request."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from kparallel.launcher_pipes import leave_is_asked

__all__: list[str] = []

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later.


class Preempted(SystemExit):
    """Ends the program after a notice, its last step in a checkpoint."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


SIGTERM = "SIGTERM came: training ends"
RESIZE = "the number of workers changes: training pauses"


@contextlib.contextmanager
def notices_end() -> Iterator[None]:
    """Let no `Notice` of a fit that runs within listen any longer if it fails: SIGTERM ends the program again."""
    try:
        yield
    except BaseException:
        # The handler is a bound method of the notice that listens.
        listener = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if isinstance(listener, Notice) and threading.current_thread() is threading.main_thread():
            listener.stop()
        raise


class Notice:
    """Notes a SIGTERM, instead of what it does otherwise, while training runs in the main thread."""

    def __init__(self) -> None:
        self._is_signalled = False
        self._before: Any = None
        self._listens = False

    @property
    def reason(self) -> str:
        """Why training is to end, `SIGTERM` or `RESIZE`; empty while it is not, and where nobody listens."""
        if not self._listens:
            return ""
        if self._is_signalled:
            return SIGTERM
        return RESIZE if leave_is_asked() else ""

    def listen(self) -> None:
        """Begin to listen."""
        if not self._listens and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
            self._listens = True
            # A fit that was over before it looked leaves its notice to the next.
            earlier = getattr(self._before, "__self__", None)
            if isinstance(earlier, Notice):
                self._is_signalled, self._before = earlier._is_signalled, earlier._before

    def stop(self) -> None:
        """Let SIGTERM do again what it did before, unless one has come: what follows on this fit may finish, too."""
        if self._listens and not self._is_signalled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            self._listens = False

    def _note(self, number: int, frame: Any) -> None:
        # Nothing more: a handler runs between any two lines of Python, also in the middle of a checkpoint.
        self._is_signalled = True
