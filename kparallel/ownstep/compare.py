"""Whether a step does the same whole and divided, and what to say if it does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__: list[str] = []

_NOISE = 2e3  # In units of the last place: what rounding alone may make, where an order of rows shows none.
_ORDERS = 30.0  # Times what another order of the rows makes.
_KEPT = 1e-2  # What another order makes that is more than rounding.


@dataclass(frozen=True)
class Outcome:
    """What a step did.

    Args:
        updates: What reached the optimizers, in order: the gradients by the names of the variables; None where that is
            not known.
        assigned: What the step assigned otherwise, by name.
        results: What it returned, by name.
    """

    updates: list[dict[str, Any]] | None
    assigned: dict[str, Any]
    results: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something that is not the same whole and divided.

    Args:
        what: A description.
        difference: By how much they differ, relative to the largest number of the whole.
        ratio: The divided in units of the whole, where it is one number for all.
    """

    what: str
    difference: float
    ratio: float | None


def compare(whole: Outcome, other: Outcome, divided: Outcome) -> Finding | None:
    """Return the first thing that is not the same whole and divided, or None.

    Args:
        whole: Of all rows on one device.
        other: The same with the rows in another order: what differs there is rounding.
        divided: Of the rows divided between the replicas.
    """
    runs = [whole.updates or [], other.updates or [], divided.updates or []]
    if divided.updates is None:
        runs = []
    elif len(runs[0]) != len(runs[2]):
        return Finding(f"the number of updates, {len(runs[0])} whole and {len(runs[2])}", 1.0, None)
    for index, (one, same, part) in enumerate(zip(*runs, strict=False)):
        found = _first(f"gradient of {{}} in update {index + 1} of {len(runs[0])}", one, same, part, together=True)
        if found is not None:
            return found
    for what, values in (
        ("value assigned to {}", (whole.assigned, other.assigned, divided.assigned)),
        ("result {}", (whole.results, other.results, divided.results)),
    ):
        found = _first(what, *values, together=False)
        if found is not None:
            return found
    return None


def _first(
    what: str, whole: dict[str, Any], other: dict[str, Any], divided: dict[str, Any], together: bool
) -> Finding | None:
    scales = {name: _largest(value) for name, value in whole.items()}
    for name, value in whole.items():
        part = divided.get(name)
        if part is None or np.shape(part) != np.shape(value):
            return Finding(f"the shape of the {what.format(repr(name))}", 1.0, None)
        if not np.issubdtype(np.asarray(value).dtype, np.number):
            continue
        scale = (max(scales.values()) if together else scales[name]) or 1.0
        noise = np.finfo(value.dtype).eps if np.issubdtype(value.dtype, np.floating) else 0.0
        ordered = _apart(value, other.get(name, value), scale)
        # Rows that are kept in their order are no rounding; gathered from all replicas, they come in that order.
        limit = _NOISE * noise + (_ORDERS * ordered if ordered < _KEPT else 0.0)
        apart = _apart(value, part, scale)
        if not apart <= limit:
            return Finding(f"the {what.format(repr(name))}", apart, _ratio(value, part))
    return None


def _largest(value: Any) -> float:
    array = np.asarray(value)
    number = np.issubdtype(array.dtype, np.number)
    return float(np.max(np.abs(np.where(np.isfinite(array), array, 0)), initial=0.0)) if number else 0.0


def _apart(one: Any, other: Any, scale: float) -> float:
    one, other = (np.asarray(each, "float64") for each in (one, other))
    if one.shape != other.shape:
        return 0.0
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(one - other))
    return float(np.max(difference, initial=0.0)) / scale


def _ratio(one: Any, other: Any) -> float | None:
    """Return how many times one array another is, or None where it is no multiple."""
    one, other = (np.asarray(each, "float64").reshape(-1) for each in (one, other))
    square = float(one @ one)
    if not square or not np.all(np.isfinite(other)):
        return None
    ratio = float(one @ other) / square
    return ratio if np.allclose(other, ratio * one, rtol=1e-3, atol=1e-3 * float(np.max(np.abs(one)))) else None


def reason(finding: Finding, replicas: int) -> str:
    """Return what is likely the reason, and what to do."""
    ratio = finding.ratio
    if ratio is not None and abs(ratio * replicas - 1) < 1e-2:
        return (
            f"It is {ratio:.3g} times the whole's: the step sums over its rows, or divides by a batch size that is "
            'written into it, and is taken for a mean. Say wrap(..., loss_reduction="sum"), or divide by tf.shape(x)[0]'
        )
    if ratio is not None and abs(ratio / replicas - 1) < 1e-2:
        return (
            f"It is {ratio:.3g} times the whole's: the step takes a mean over its rows, and is taken for a sum. Leave "
            'out loss_reduction="sum"'
        )
    return (
        "Likely the step compares rows with one another (kparallel.gather gives it those of all replicas), has a batch "
        "size written into it (tf.shape(x)[0] is that of the rows it sees), or divides one sum over rows by another "
        "(kparallel.all_reduce gives the sums of all replicas)"
    )


def described(finding: Finding, model: str, step: str, replicas: int, rows: int) -> str:
    """Return what was expected, what came and the ways out."""
    return (
        f"Expected {model}.{step} to do the same with {rows} rows whole and divided between {replicas} replicas, "
        f"received {finding.what}, which differs by {finding.difference:.2g} of its size. {reason(finding, replicas)}. "
        'With wrap(..., check="warn") it trains all the same: on averages over the replicas, not as on one device.'
    )


def names(values: Sequence[str]) -> list[str]:
    """Return names, those that repeat with a number."""
    seen: dict[str, int] = {}
    found = []
    for value in values:
        seen[value] = seen.get(value, 0) + 1
        found.append(value if seen[value] == 1 else f"{value} ({seen[value]})")
    return found
