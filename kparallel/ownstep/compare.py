"""Whether a step does the same whole and divided."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.ownstep.finding import Finding

__all__: list[str] = []

_NOISE = 2e3  # In units of the last place: what rounding alone may make, where an order of rows shows none.
_ORDERS = 30.0  # Times what another order of the rows makes.
_KEPT = 30.0  # Times the root of the last place: what another order makes that is more than rounding.
_NARROW = 16.0  # In units of the last place of a dtype narrower than the gradients', in which layers compute.

Values = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a step did.

    Args:
        updates: What reached the optimizers, in order: the gradients by the names of the variables; None where that is
            not known.
        assigned: What the step assigned otherwise, by name.
        results: What it returned, by name.
        moved: What the step itself assigned to variables that an optimizer updates, by name: what they would be without
            the updates. Default None, not known.
    """

    updates: list[dict[str, Any]] | None
    assigned: dict[str, Any]
    results: dict[str, Any]
    moved: dict[str, Any] | None = None


@dataclass(frozen=True)
class Slices:
    """A gradient that came as slices, of which an optimizer squares or clips each: summed, and squared, by index.

    Args:
        indices: Those that occur, ascending.
        sums: `[index, ...]`: the sum of the slices of each.
        squares: `[index, ...]`: the sum of their squares, which tells two slices of one index from their sum; None for
            an optimizer that scales and adds.
    """

    indices: Any
    sums: Any
    squares: Any

    def spread(self, values: Any, indices: Any) -> Any:
        """Return sums or squares for other indices, which have all of these among them; zeros for the rest."""
        full = np.zeros((len(indices), *values.shape[1:]), values.dtype)
        # Both lists of indices are ascending.
        full[np.searchsorted(indices, self.indices)] = values
        return full


def as_arrays(gradient: Any, squared: bool) -> Any:
    """Return a gradient as what is compared.

    Args:
        gradient: A tensor or `tf.IndexedSlices`.
        squared: Whether it makes a difference how many slices an index has.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return _number(gradient)
    # `places[slice]` is the place of the slice's index among the ones that occur.
    indices, places = np.unique(np.asarray(gradient.indices), return_inverse=True)
    values = _number(gradient.values)
    sums = np.zeros((len(indices), *values.shape[1:]), values.dtype)
    np.add.at(sums, places, values)
    if not squared:
        return Slices(indices, sums, None)
    squares = np.zeros_like(sums)
    np.add.at(squares, places, values**2)
    return Slices(indices, sums, squares)


def _number(tensor: Any) -> Any:
    """Return a tensor as an array of NumPy's own dtypes, of which bfloat16 is none."""
    return np.asarray(tf.cast(tensor, "float32") if tensor.dtype == tf.bfloat16 else tensor)


def has_squares(outcome: Outcome) -> bool:
    """Tell whether slices have reached an optimizer that squares or clips them."""
    values = [value for update in outcome.updates or [] for value in update.values()]
    return any(isinstance(value, Slices) and value.squares is not None for value in values)


def is_finite(outcome: Outcome) -> bool:
    """Tell whether all numbers that reached optimizers, or were returned, are finite."""
    values = [value for update in outcome.updates or [] for value in update.values()]
    # An infinite slice makes its sum infinite or NaN.
    arrays = [value.sums if isinstance(value, Slices) else value for value in values]
    return all(bool(np.all(np.isfinite(array))) for array in [*arrays, *outcome.results.values()])


def rounding_of(layers: Sequence[keras.layers.Layer], compression: str | None = None) -> float:
    """Return what is rounding where layers compute, or gradients travel, in a narrower dtype than what is compared."""
    dtypes = {layer.compute_dtype for layer in layers} | {compression}
    # float32     23 bits behind the point
    # float16     10
    # bfloat16     7
    known = {"float32": _NOISE * 2.0**-23, "float16": _NARROW * 2.0**-10, "bfloat16": _NARROW * 2.0**-7}
    return max((known[dtype] for dtype in dtypes if dtype in known), default=0.0)


def compare(whole: Outcome, other: Outcome, divided: Outcome, rounding: float = 0.0) -> Finding | None:
    """Return the first thing that is not the same whole and divided, or None.

    Args:
        whole: Of all rows on one device.
        other: The same with the rows in another order: what differs there is rounding.
        divided: Of the rows divided between the replicas.
        rounding: What of the largest number is rounding at least.
    """
    runs = [whole.updates or [], other.updates or [], divided.updates or []]
    if divided.updates is None:
        runs = []
    elif len(runs[0]) != len(runs[2]):
        return Finding(f"the number of updates, {len(runs[0])} whole and {len(runs[2])}", 1.0, None)
    # `run` holds one update of all three: whole, in another order, divided. What comes first in the step is compared
    # first, because what follows on it differs too.
    for index, run in enumerate(zip(*runs, strict=False)):
        update = f"gradient of {{}} in update {index + 1} of {len(runs[0])}"
        sums, squares = _sums_and_squares(run)
        for what, values in ((update, sums), (f"slices of the {update}", squares)):
            found = _first(what, values, rounding, together=True)
            if found is not None:
                return found
    for what, values, together in (
        ("value assigned to {}", _in_all([whole.assigned, other.assigned, divided.assigned]), False),
        ("value assigned to {}", _where_known([whole.moved, other.moved, divided.moved]), True),
        ("result {}", [whole.results, other.results, divided.results], False),
    ):
        found = _first(what, values, rounding, together)
        if found is not None:
            return found
    return None


def _in_all(runs: Sequence[Values]) -> list[Values]:
    """Return the values that all runs have.

    A graph has both branches of a condition, an eager run one of them. So the variables of an update inside a condition
    are those of an optimizer in a graph, and like any others in an eager run that does not update them.
    """
    names = set(runs[0]).intersection(*runs[1:])
    return [{name: value for name, value in run.items() if name in names} for run in runs]


def _where_known(runs: Sequence[Values | None]) -> list[Values]:
    """Return the values of some runs, none if those of one are not known."""
    known = [run for run in runs if run is not None]
    return known if len(known) == len(runs) else [{} for _ in runs]


def _sums_and_squares(runs: Sequence[Values]) -> tuple[list[Values], list[Values]]:
    """Return the gradients of some runs as arrays, and of those that come as slices the squares, over equal indices."""
    sums = [dict(run) for run in runs]
    squares: list[Values] = [{} for _ in runs]
    for name in runs[0]:
        slices = [each for each in (run.get(name) for run in runs) if isinstance(each, Slices)]
        # Dense in one of the runs: compared as they are, by their shapes.
        if len(slices) < len(runs):
            continue
        indices = np.unique(np.concatenate([each.indices for each in slices]))
        for of_sums, of_squares, each in zip(sums, squares, slices, strict=True):
            of_sums[name] = each.spread(each.sums, indices)
            if each.squares is not None:
                of_squares[name] = each.spread(each.squares, indices)
    return sums, squares


def _first(what: str, runs: Sequence[Values], rounding: float, together: bool) -> Finding | None:
    whole, other, divided = runs
    scales = {name: _largest(value) for name, value in whole.items()}
    for name, value in whole.items():
        part = divided.get(name)
        if part is None or np.shape(part) != np.shape(value):
            return Finding(f"the shape of the {_called(what, name)}", 1.0, None)
        if np.asarray(value).dtype.kind not in "biuf":
            continue
        # Gradients of one update are compared with the largest of them all: a gradient that is zero but for rounding
        # would else differ by its whole size.
        scale = (max(scales.values()) if together else scales[name]) or 1.0
        noise = np.finfo(value.dtype).eps if np.issubdtype(value.dtype, np.floating) else 0.0
        ordered = _apart(value, other.get(name, value), scale)
        # Rows that are kept in their order are no rounding; gathered from all replicas, they come in that order.
        limit = max(_NOISE * noise, rounding) + (_ORDERS * ordered if ordered < _KEPT * noise**0.5 else 0.0)
        apart = _apart(value, part, scale)
        if not apart <= limit:
            return Finding(f"the {_called(what, name)}", apart, _ratio(value, part))
    return None


def _called(what: str, name: str) -> str:
    """Return what is compared with its name; what a step returns without a dict has none."""
    return what.format(repr(name)) if name else what.replace(" {}", "")


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
    # The best ratio in the sense of least squares; then it is checked whether it fits every entry.
    square = float(one @ one)
    if not square or not np.all(np.isfinite(other)):
        return None
    ratio = float(one @ other) / square
    return ratio if np.allclose(other, ratio * one, rtol=1e-3, atol=1e-3 * float(np.max(np.abs(one)))) else None


def names(values: Sequence[str]) -> list[str]:
    """Return names, those that repeat with a number."""
    seen: dict[str, int] = {}
    found = []
    for value in values:
        seen[value] = seen.get(value, 0) + 1
        found.append(value if seen[value] == 1 else f"{value} ({seen[value]})")
    return found
