"""Puts variables back to what they were before a run that was only to be compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras

from kparallel.compat.variables import copies_of

__all__: list[str] = []


@contextmanager
def putting_back(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Put back what is written meanwhile.

    Args:
        variables: Each with a copy on each replica.
    """
    before = [[copy.numpy() for copy in copies_of(variable)] for variable in variables]
    try:
        yield
    finally:
        for variable, values in zip(variables, before, strict=True):
            for copy, value in zip(copies_of(variable), values, strict=True):
                copy.assign(value)
