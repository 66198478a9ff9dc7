"""Ends the wait for a worker whose script has ended, of which the launcher sends word."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

__all__: list[str] = []

ENDED = "its script has ended"


class Departures:
    """Ends an exchange that waits for a worker whose script has ended without an error.

    Neither TensorFlow nor a connection reports this before the heartbeat has passed. A worker that ends before the
    others is no error by itself: the chief may still save a file after the others have ended.

    Args:
        descriptor: The launcher's pipe. Each line has the index of a worker whose script has ended.
        abort: Ends all present and later exchanges with an error of the given text.
        settle: Seconds in which the messages that a worker sent before it ended must have arrived.
    """

    def __init__(self, descriptor: int, abort: Callable[[str], None], settle: float = 2.0) -> None:
        self._abort = abort
        self._settle = settle
        self._changed = threading.Condition()
        self._departed: list[int] = []
        # The number of waits so far, by which `_settled` tells the present wait from the next.
        self._begun = 0
        self._waits = False
        for work in (self._watch, lambda: self._listen(descriptor)):
            threading.Thread(target=work, name="kparallel-departures", daemon=True).start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Return a context in which this worker waits for all others."""
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
                # Both are needed: a worker that has ended is no loss while this one does not wait for it.
                self._changed.wait_for(lambda: self._departed and self._waits)
                # The wait may still end by itself: the worker may have sent its part before it ended.
                worker, settled = self._departed[0], self._settled(self._begun)
            if not settled:
                self._abort(f"from /job:worker/replica:0/task:{worker}: {ENDED}")
                return

    def _settled(self, begun: int) -> bool:
        """Return whether the present wait ends by itself."""
        return self._changed.wait_for(lambda: self._begun != begun or not self._waits, self._settle)
