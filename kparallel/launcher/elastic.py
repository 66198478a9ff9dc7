"""A run whose number of workers may change: what follows on each end of a gang.

```text
  4 workers ──killed──► 3 workers ──checkpoint written──► all leave after the next one ──► 4 workers
                            └──killed──► 2 workers ──killed──► below MIN: a restart, if one is left, or the end
```

A change of size is a new start of the script, which goes on from its last checkpoint. A wrapped `fit` equals the plain
one for every number of workers, so that the sizes leave no trace in the result.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kparallel.launcher.gang import PREEMPTED, Ending
from kparallel.launcher.sizes import Sizes

__all__: list[str] = []

Heard = Callable[[Mapping[str, Any]], bool]
Start = Callable[[Sequence[int], int, Heard], Ending]


class LastCheckpoint:
    """Where a run would go on if its workers were started again, as far as the launcher has heard."""

    def __init__(self) -> None:
        self._place = ""

    def note(self, message: Mapping[str, Any]) -> None:
        """Take what a worker reports of a checkpoint."""
        epoch, step = message["epoch"], message["step"]
        self._place = f"step {step} of epoch {epoch}" if step else f"the start of epoch {epoch}"

    def outlook(self, workers: int) -> str:
        """Return what as many workers do when they start now."""
        who = "1 worker" if workers == 1 else f"{workers} workers"
        verb = "s" if workers == 1 else ""
        if self._place:
            return f"{who} go{'es' if verb else ''} on from {self._place}"
        return f"{who} start{verb} anew, as no kparallel.callbacks.Checkpoint has written a checkpoint yet"


class Growth:
    """Lets a gang leave after its next checkpoint, once it has written one, if it is to become larger.

    The first checkpoint shows that the script gets on with the workers that are left: one that fails at once does not
    become larger.

    Args:
        last: Is told where the checkpoints lie.
        wanted: Whether more workers could start at once.
    """

    def __init__(self, last: LastCheckpoint, wanted: bool) -> None:
        self._last = last
        self._wanted = wanted
        self._gets_on = False
        self.asked = False

    def heard(self, message: Mapping[str, Any]) -> bool:
        """Take what a worker reports of a checkpoint; return whether the workers are to leave after the next."""
        self._last.note(message)
        self._gets_on = self._gets_on or message["checkpoint"] == "written"
        return self._asks()

    def offer(self) -> bool:
        """Note that more workers could start now; return as `heard` does."""
        self._wanted = True
        return self._asks()

    def _asks(self) -> bool:
        asks = self._wanted and self._gets_on and not self.asked
        self.asked = self.asked or asks
        return asks


def supervise(sizes: Sizes, restarts: int, start: Start, say: Callable[[Ending, str], None]) -> Ending:
    """Start a gang on this machine again and again until the script has ended.

    Args:
        sizes: How many workers there may be.
        restarts: How often a gang is started again after a fault of the script's, or where too few workers are left.
        start: Starts one gang and waits for its end: a function of the places that it takes on the machine, from 0,
            how many gangs there were before, and what takes its reports of checkpoints.
        say: Takes an ending and what follows on it.

    Returns:
        How the last gang ended.
    """
    every = tuple(range(sizes.most))
    places, gangs, used = every, 0, 0
    last = LastCheckpoint()
    while True:
        # A gang with empty places may grow, once it has shown that it gets on.
        growth = Growth(last, len(places) < sizes.most)
        ending = start(places, gangs, growth.heard)
        gangs += 1
        left = places_left(places, ending)
        if ending.code == 0 or ending.signalled:
            return ending
        if ending.code == PREEMPTED and growth.asked:
            places = every
            say(Ending(PREEMPTED, "lost workers are started again"), last.outlook(len(places)))
        # Workers were lost, and enough are left: they start again without using up a restart.
        elif sizes.least <= len(left) < len(places):
            places = left
            say(Ending(ending.code, reason_of_loss(ending)), last.outlook(len(places)))
        elif ending.code == PREEMPTED or used == restarts:
            return ending
        else:
            used += 1
            say(ending, f"restart {used} of {restarts}")


def places_left(places: Sequence[int], ending: Ending) -> tuple[int, ...]:
    """Return the places of the workers that were not lost.

    Args:
        places: One for each worker.
        ending: How they ended. Who was told to leave, nobody knows; the last counts as lost.
    """
    lost = {places[worker] for worker in ending.lost}
    if ending.code == PREEMPTED:
        lost = {places[-1]}
    return tuple(place for place in places if place not in lost)


def reason_of_loss(ending: Ending) -> str:
    """Return in words why a gang goes on with fewer."""
    if not ending.consequence:
        return ending.reason
    names = " and ".join(map(str, ending.lost))
    return f"worker{'s' * (len(ending.lost) > 1)} {names} did not respond any more"
