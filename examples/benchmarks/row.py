"""What a benchmark gives: rows of the table."""

from dataclasses import dataclass

__all__: list[str] = []


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: What was measured, in words; with the benchmark's name it identifies the row.
        value: The measured ratio or figure, or None if it was not run.
        low, high: Smallest and largest value among the rounds, or None where there is one.
        at_least, at_most: The goal, or None where there is none.
        unit: Written behind the numbers, such as `"ms"`; a plain ratio has none.
        conditions: What a reader needs to repeat it: arms, cores, batch; or why it was not run.
    """

    what: str
    value: float | None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    conditions: str = ""

    @property
    def met(self) -> bool | None:
        """Tell whether the goal is met; None without a goal or a value."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


@dataclass(frozen=True)
class Settings:
    """How the benchmarks run.

    Args:
        rounds: How often each arm is asked.
        torch_python: An interpreter that imports PyTorch, or None.
        legacy_python: An interpreter that imports TensorFlow and `tf_keras`, or None.
        log: A folder for what the arms print.
    """

    rounds: int
    torch_python: str | None
    legacy_python: str | None
    log: str
