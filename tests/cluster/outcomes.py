"""A case for two workers: one function that each worker runs, with what each is expected to come to.

    @raises("WorkerError", "same shuffle on all workers")
    def shuffle(worker):
        return fit(net(), shuffle=bool(worker.index))

The name `shuffle` is a `Case` from then on: `cases(module)` finds it for the test and for the workers' script alike.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Worker:
    """The worker that runs a case, and a folder that both workers see."""

    index: int
    folder: Path


class Outcome(NamedTuple):
    """What a case came to on one worker: the class and message of its error, or empty texts and its value."""

    error: str
    message: str
    value: Any

    @classmethod
    def of(cls, case: "Case", worker: Worker) -> "Outcome":
        """Run a case; what it returns must be JSON or None."""
        try:
            return cls("", "", json.loads(json.dumps(case.run(worker))))
        except Exception as error:
            return cls(type(error).__name__, str(error), None)

    def is_error(self, error: str, part: str) -> bool:
        """Return whether it is an error of a class, with a part of its message."""
        return self.error == error and part in self.message


Check = Callable[[Outcome, Outcome], bool]


@dataclass(frozen=True)
class Case:
    """What each worker runs, and whether the outcomes of worker 0 and worker 1 are as expected."""

    run: Callable[[Worker], Any]
    check: Check


def expects(check: Check) -> Callable[[Callable[[Worker], Any]], Case]:
    """Return a decorator that makes a case of a function."""
    return lambda run: Case(run, check)


def raises(error: str, part: str) -> Callable[[Callable[[Worker], Any]], Case]:
    """Expect an error of one class on both workers, with a part of its message."""
    return raises_each((error, part), (error, part))


def raises_each(first: tuple[str, str], second: tuple[str, str]) -> Callable[[Callable[[Worker], Any]], Case]:
    """Expect an error of class and part of its message on worker 0, another on worker 1."""
    return expects(lambda one, other: one.is_error(*first) and other.is_error(*second))


def fails_on(index: int, error: str, part: str) -> Callable[[Callable[[Worker], Any]], Case]:
    """Expect an error on one worker, which a `WorkerError` on the other repeats."""

    def check(*outcomes: Outcome) -> bool:
        other = outcomes[1 - index]
        return outcomes[index].is_error(error, part) and (
            other.is_error("WorkerError", f"on worker {index}: {error}") and part in other.message
        )

    return expects(check)


def returns(check: Callable[[Any, Any], bool]) -> Callable[[Callable[[Worker], Any]], Case]:
    """Expect no error, and of the two values what the check says."""
    return expects(lambda one, other: not one.error and not other.error and check(one.value, other.value))


def agrees(run: Callable[[Worker], Any]) -> Case:
    """Expect no error, and one value on both workers."""
    return returns(lambda one, other: one is not None and one == other)(run)


def cases(module: ModuleType) -> dict[str, Case]:
    """Return a module's cases by name, in the order in which it defines them."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Case)}
