"""The unit of a schedule: one stage runs forward or backward on one microbatch."""

import re
from dataclasses import dataclass

from kparallel.errors import PlanError

__all__: list[str] = []

Program = tuple["Action", ...]
Programs = tuple[Program, ...]


@dataclass(frozen=True, order=True)
class Action:
    """One entry of a schedule; prints as `2F0`: stage 2, forward, microbatch 0.

    Args:
        stage: Index of the stage.
        kind: `"F"` for forward or `"B"` for backward.
        microbatch: Index of the microbatch.

    Example:
        >>> print(Action(2, "F", 0))
        2F0
    """

    stage: int
    kind: str
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    @classmethod
    def parse(cls, text: str) -> "Action":
        """Read an action as it prints.

        Raises:
            PlanError: The text is no action.

        Example:
            >>> Action.parse("0B3")
            Action(stage=0, kind='B', microbatch=3)
        """
        match = re.fullmatch(r"(\d+)([FB])(\d+)", text)
        if match is None:
            raise PlanError(f"Expected an action such as '2F0' or '0B3', received {text!r}.")
        return cls(int(match[1]), match[2], int(match[3]))

    def needs(self, stages: int) -> tuple["Action", ...]:
        """Return the actions whose results this one reads, in a pipeline of so many stages."""
        if self.kind == "F":
            return (Action(self.stage - 1, "F", self.microbatch),) if self.stage else ()
        forward = Action(self.stage, "F", self.microbatch)
        return (forward, Action(self.stage + 1, "B", self.microbatch)) if self.stage + 1 < stages else (forward,)
