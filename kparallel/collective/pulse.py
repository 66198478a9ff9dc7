"""Whether the workers live, as TensorFlow's heartbeats tell."""

import threading
import time

from kparallel.private import silent_workers

__all__: list[str] = []

_INTERVAL = 2.0  # Seconds between questions.


class Pulse:
    """Tells which worker gives no sign of life; it asks only while somebody waits.

    Args:
        workers: How many workers there are.
        heartbeat: Seconds without a sign of life after which a worker is lost.
    """

    def __init__(self, workers: int, heartbeat: float) -> None:
        self._workers = workers
        self._heartbeat = heartbeat
        self._asked = threading.Event()
        self._since: float | None = None
        self._silent: int | None = None
        threading.Thread(target=self._watch, name="kparallel-pulse", daemon=True).start()

    def frozen(self) -> int | None:
        """Return the index of a worker that gives no sign of life, or None; call it again while you wait.

        The chief answers for the others. If no answer comes for as long as a heartbeat may take, it is the chief.
        """
        self._asked.set()
        since = self._since
        if self._silent is None and since is not None and time.monotonic() - since > self._heartbeat + _INTERVAL:
            return 0
        return self._silent

    def _watch(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            self._since = time.monotonic()
            silent = silent_workers(self._workers)
            self._since = None
            self._silent = min(silent, default=None)
            time.sleep(_INTERVAL)
