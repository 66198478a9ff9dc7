"""A notice of the end in a cluster: the workers leave after the same step, whichever of them was told."""

import time

from kparallel.comm.group import WorkerGroup
from kparallel.resume.notice import RESIZE, SIGTERM, Notice

__all__: list[str] = []

_INTERVAL = 1.0  # Seconds between questions: a question takes a message, which every step should not pay for.


class AgreedNotice:
    """Asks the workers now and then, after the same steps on all, whether a notice has come to one of them.

    Args:
        group: How they tell.
    """

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group
        self._notice = Notice()
        self._left = self._every = 1
        self._asked = time.monotonic()

    def listen(self) -> None:
        """Begin to listen."""
        self._notice.listen()

    def stop(self) -> None:
        """Listen no longer."""
        self._notice.stop()

    def reason_at_step(self) -> str:
        """Return, at the end of a step, why all workers are to leave; empty while they are not."""
        # Counted in steps, so that all workers ask after the same one. A clock would let each ask at another step.
        self._left -= 1
        if self._left > 0:
            return ""
        now = time.monotonic()
        seconds = max(now - self._asked, 1e-6) / self._every
        # As many steps as fit into the interval. At most twice as many as before, because the first steps, which
        # trace, are slow and the ones after them fast.
        proposed = max(1, min(int(_INTERVAL / seconds), 2 * self._every))
        answers = self._group.exchange("has ended a step of fit", [self._notice.reason, proposed])
        self._asked = time.monotonic()
        self._every = self._left = answers[0][1]  # The chief measures for all.
        return _agreed([reason for reason, _ in answers])

    def reason_at_epoch(self) -> str:
        """Return, at the end of an epoch, why all workers are to leave; empty while they are not."""
        return _agreed(self._group.exchange("has ended an epoch of fit", self._notice.reason))


def _agreed(reasons: list[str]) -> str:
    """Return one of the workers' reasons; an end counts before a change of size."""
    return next((reason for reason in (SIGTERM, RESIZE) if reason in reasons), "")
