"""One action of a schedule: a stage runs forward or backward on a microbatch.

A schedule may split its backward passes in two. `B` then computes the gradients of the stage's inputs, which the
earlier stage waits for, and `W` those of the weights, which nobody waits for:

```text
unsplit   2B0 ─► 1B0                              2B0 computes both
split     2B0 ─► 1B0     2B0 ┄► 2W0               2W0 fits wherever the lane would be idle
```
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from kparallel.errors import ScheduleError

__all__: list[str] = []

FORWARD = "F"
BACKWARD = "B"
WEIGHT = "W"
KINDS = (FORWARD, BACKWARD, WEIGHT)
TEXT = rf"(\d+)([{''.join(KINDS)}])(\d+)"  # The printed form, as a regular expression.
_TEXT = re.compile(TEXT)


@dataclass(frozen=True, order=True)
class Action:
    """One stage's forward or backward pass on one microbatch, or a part of the latter; prints as `2F0`.

    Args:
        stage: The index of the stage.
        kind: `"F"` for forward, `"B"` for backward, `"W"` for the gradients of the weights where the backward pass is
            split: `"B"` is then the gradients of the stage's inputs alone.
        microbatch: The index of the microbatch.

    Raises:
        ScheduleError: An index is negative or the kind is none of `"F"`, `"B"` and `"W"`.

    Example:
        >>> print(Action(2, "F", 0))
        2F0
        >>> Action.parse("2F0")
        Action(stage=2, kind='F', microbatch=0)
    """

    stage: int
    kind: str
    microbatch: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.stage < 0 or self.microbatch < 0:
            raise ScheduleError(
                f"Expected a stage >= 0, a kind out of {KINDS} and a microbatch >= 0, "
                f"received {self.stage!r}, {self.kind!r} and {self.microbatch!r}."
            )

    @classmethod
    def parse(cls, text: str) -> "Action":
        """Read an action from its printed form.

        Args:
            text: Stage, kind and microbatch, such as `"2F0"`.

        Returns:
            The action that prints as `text`.

        Raises:
            ScheduleError: The text is no action.
        """
        # `fullmatch`, so that `"2F0 "` and `"2F0B1"` are errors and not the action that they begin with.
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ScheduleError(
                f"Expected an action such as '2F0' (stage 2, forward, microbatch 0), received {text!r}."
            )
        return cls(int(match[1]), match[2], int(match[3]))

    def needs(self, stages: int) -> tuple["Action", ...]:
        """Return the actions whose results this one reads.

        Args:
            stages: The number of stages. The backward pass starts at the last one, from the loss.

        Example:
            >>> [str(action) for action in Action(1, "B", 0).needs(stages=3)]
            ['1F0', '2B0']
        """
        # Activations travel from stage to stage in ascending order, cotangents in descending order:
        # F(0, m) ─► F(1, m) ─► F(2, m) ─► loss ─► B(2, m) ─► B(1, m) ─► B(0, m)
        #      └──────────└──────────└─ activations ──┘──────────┘──────────┘
        if self.kind == FORWARD:
            return (Action(self.stage - 1, FORWARD, self.microbatch),) if self.stage else ()
        if self.kind == WEIGHT:  # It continues from what the same stage's `B` has computed.
            return (Action(self.stage, BACKWARD, self.microbatch),)
        # The backward pass of the last stage begins at the loss, which this stage's own forward pass has computed. So
        # it reads one result fewer.
        own = Action(self.stage, FORWARD, self.microbatch)
        return (own, Action(self.stage + 1, BACKWARD, self.microbatch)) if self.stage + 1 < stages else (own,)

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"


def splits_backward(programs: "Programs") -> bool:
    """Return whether a schedule computes the gradients of the weights in actions of their own, of the kind `"W"`.

    Example:
        >>> splits_backward(((Action(0, "F", 0), Action(0, "B", 0)),))
        False
    """
    return any(action.kind == WEIGHT for program in programs for action in program)


Program: TypeAlias = tuple[Action, ...]
"""The actions of one lane (one device of a row), in order."""

Programs: TypeAlias = tuple[Program, ...]
"""One program per lane."""

Schedule: TypeAlias = Callable[[int, int], Programs]
"""A pure function from the numbers of stages and microbatches to one program per lane."""
