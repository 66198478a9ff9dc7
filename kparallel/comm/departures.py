"""Workers whose scripts have ended while this one waits for them: the launcher tells, and the waiting ends."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

__all__: list[str] = []

ENDED = "its script has ended"


class Departures:
    """Ends an exchange that waits for a worker whose script has ended without an error.

    Neither TensorFlow nor a connection tells that before the heartbeat's time is over. That a worker ends before the
    others is no error by itself: the chief may still save a file, and tells nobody anything.

    Args:
        descriptor: Of the launcher's pipe, from which the indices of such workers are read, one in a line.
        abort: Ends the exchanges that wait, and those to come, with an error of this text.
        settle: Seconds in which what a worker sent before it ended must have come.
    """

    def __init__(self, descriptor: int, abort: Callable[[str], None], settle: float = 2.0) -> None:
        self._abort = abort
        self._settle = settle
        self._changed = threading.Condition()
        self._departed: list[int] = []
        self._begun = 0
        self._waits = False
        for work in (self._watch, lambda: self._listen(descriptor)):
            threading.Thread(target=work, name="kparallel-departures", daemon=True).start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait within for all other workers."""
        with self._changed:
            self._begun += 1
            self._waits = True
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._waits = False
                self._changed.notify_all()

    def _listen(self, descriptor: int) -> None:
        with os.fdopen(descriptor) as lines:
            for line in lines:
                with self._changed:
                    self._departed.append(int(line))
                    self._changed.notify_all()

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._departed and self._waits)
                worker, settled = self._departed[0], self._settled(self._begun)
            if not settled:
                self._abort(f"from /job:worker/replica:0/task:{worker}: {ENDED}")
                return

    def _settled(self, begun: int) -> bool:
        """Return whether the present wait ends by itself."""
        return self._changed.wait_for(lambda: self._begun != begun or not self._waits, self._settle)
