"""Counts the steps and seconds of an epoch, without those that are left out."""

__all__: list[str] = []


class Meter:
    """The steps of an epoch and the time that they took.

    ```text
    begin ─── reach ─── reach ── pause ─ ─ ─ reach ─ ─ resume ─── reach
      └────── counts ─────────────┘    left out         └─ counts ──┘
    ```
    """

    def __init__(self) -> None:
        # Where measuring began, and what was reached last: a count of steps and a time in seconds each.
        self._begun = self._reached = (0, 0.0)
        self._paused: tuple[int, float] | None = None

    @property
    def steps(self) -> int:
        """The number of steps that count."""
        return self._reached[0] - self._begun[0]

    @property
    def seconds(self) -> float:
        """The time that counts."""
        return self._reached[1] - self._begun[1]

    def begin(self, steps: int, now: float) -> None:
        """Begin to measure.

        Args:
            steps: How many steps there have been so far.
            now: The time.
        """
        self._begun = self._reached = (steps, now)

    def reach(self, steps: int, now: float) -> None:
        """Note that so many steps are done; arguments as of `begin`."""
        self._reached = (steps, now)

    def pause(self, now: float) -> None:
        """Leave out what follows, from the last step that was reached on, until `resume`."""
        self._paused = self._reached[0], now

    def resume(self) -> None:
        """Count again, as if the epoch had begun later by what was left out; do nothing if it is not paused."""
        if self._paused is None:
            return
        steps, moment = self._paused
        self._begun = self._begun[0] + self._reached[0] - steps, self._begun[1] + self._reached[1] - moment
        self._paused = None
