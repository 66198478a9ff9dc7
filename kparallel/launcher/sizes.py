"""How many workers a run may have: a fixed number, or from a least to a most."""

import re
from dataclasses import dataclass

__all__: list[str] = []


@dataclass(frozen=True)
class Sizes:
    """From how many workers to how many a run may have.

    Args:
        least: Fewer end the run.
        most: As many as there are at the start, if they come.
    """

    least: int
    most: int

    @property
    def is_elastic(self) -> bool:
        """Whether the number may change."""
        return self.least < self.most


def parse_sizes(text: str) -> Sizes:
    """Return what `-n` says.

    Args:
        text: `4`, or `2:4` for two to four.

    Raises:
        ValueError: It says something else.

    Example:
        >>> parse_sizes("2:4")
        Sizes(least=2, most=4)
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if found is None:
        raise ValueError(f"expected a number of workers such as 4, or MIN:MAX such as 2:4, received {text!r}.")
    least, most = int(found[1]), int(found[2] or found[1])
    if least < 1:
        raise ValueError(f"expected at least 1 worker, received {text!r}.")
    if least > most:
        raise ValueError(f"expected MIN:MAX with MIN not above MAX, received {text!r}; write {most}:{least}.")
    return Sizes(least, most)
