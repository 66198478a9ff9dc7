"""Which parameters of a test every run takes; the run of `full` takes the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], *chosen: Any) -> list[Any]:
    """Return values as parameters of a test, those that are not chosen marked `full`.

    Args:
        values: Of one parameter each, or tuples of one value for each of several parameters.
        chosen: Those that every run takes.
    """
    values = list(values)
    unknown = [choice for choice in chosen if choice not in values]
    assert not unknown, f"Not among the values: {unknown}"
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=() if value in chosen else pytest.mark.full
        )
        for value in values
    ]


def all_but(values: Iterable[Any], *left: Any) -> list[Any]:
    """Return values as parameters of a test, those that are left to `full` marked so; arguments as of `some`."""
    values = list(values)
    unknown = [value for value in left if value not in values]
    assert not unknown, f"Not among the values: {unknown}"
    return some(values, *(value for value in values if value not in left))
