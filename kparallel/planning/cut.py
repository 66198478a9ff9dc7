"""Cuts a list of costs into contiguous groups, so that the most expensive group is as cheap as possible."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kparallel.errors import PlanError
from kparallel.planning.units import Unit, cut_points, incoming_bytes

__all__: list[str] = []

Tables: TypeAlias = Sequence[npt.NDArray[np.float64]] | npt.NDArray[np.float64]

_ROUNDING = 1 + 1e-12  # Two sums of the same costs may differ by this much.


def partition(
    costs: Sequence[float],
    stages: int,
    units: Sequence[Unit] | None = None,
    fits: npt.NDArray[np.bool_] | None = None,
) -> tuple[int, ...]:
    """Return the start of each group. The result is exact: dynamic programming over (groups, end).

    Among all cuts whose most expensive group is as cheap as possible, the result is the one that sends the fewest
    bytes. An output counts once for every later group that reads it, since it travels directly there. Every group has a
    cost above 0, and no cut falls between units that change the same state.

    Args:
        costs: The cost of each unit, in order, in any unit of measure.
        stages: The number of groups.
        units: The units. They determine the bytes that a cut sends, and the units that share a state. Default: no bytes
            are counted, and a cut may fall anywhere.
        fits: `[stage, start, end]`: whether the units from start to end (exclusive) fit the memory of a stage. Default:
            everything fits.

    Raises:
        PlanError: There are more stages than units with a cost, or no cut fits.

    Example:
        >>> partition([4, 1, 1, 1, 3], 2)
        (0, 2)
    """
    _check(costs, stages, units)
    # Two passes over the same tables. The first finds how cheap the most expensive group can be. The second forbids
    # every group that is more expensive, and finds among the cuts that are left the one that sends the fewest bytes.
    runs = _runs(costs, stages, _free(costs, units))
    # `[stage][start, end]`; without a limit all stages share one table.
    tables = [runs] * stages if fits is None else [np.where(fits[stage], runs, np.inf) for stage in range(stages)]
    least = least_slowest(tables)
    if np.isinf(least):
        raise PlanError(f"Expected a cut into {stages} stages in which each fits its memory; there is none.")
    # `[start, end]`: what the group reads from earlier ones, so the sum over all groups is all that is sent.
    sent = incoming_bytes(units) if units is not None else np.zeros(runs.shape)
    if fits is None:
        return _fewest([np.where(runs <= least * _ROUNDING, sent, np.inf)] * stages)
    return _fewest([np.where(table <= least * _ROUNDING, sent, np.inf) for table in tables])


def least_slowest(tables: Tables) -> float:
    """Return the minimax cost: the smallest achievable cost of the most expensive group.

    Args:
        tables: `[stage][start, end]`: the cost of a group, infinite for a group that is not allowed.

    Example:
        >>> least_slowest(np.array([[[np.inf, 3.0], [np.inf, np.inf]]]))
        3.0
    """
    best = np.full(len(tables[0]), np.inf)
    best[0] = 0
    # `best[end]`: the minimax cost of the first `end` units in the groups so far.
    for costs in tables:
        # best[end] = min over start of max(best[start], costs[start, end])
        # `best[:, None]` puts the units before the group on the axis of `start`.
        best = np.maximum(best[:, None], costs).min(axis=0)
    return float(best[-1])


def _fewest(tables: Tables) -> tuple[int, ...]:
    """Return the starts of the groups whose sum of costs is the least."""
    best = np.full(len(tables[0]), np.inf)
    best[0] = 0
    choices = []
    for costs in tables:
        # `[start, end]`, as above. `choices[group][end]` is the start of the group that ends there.
        total = best[:, None] + costs
        choices.append(total.argmin(axis=0))
        best = total.min(axis=0)
    # Back from the end: the start of a group is the end of the one before it.
    starts = [len(tables[0]) - 1]
    for choice in reversed(choices):
        starts.append(int(choice[starts[-1]]))
    return tuple(reversed(starts[1:]))


def most_stages(costs: Sequence[float], units: Sequence[Unit] | None = None) -> int:
    """Return the largest number of stages with a cost above 0 into which the units can be cut.

    Example:
        >>> most_stages([1, 0, 1, 1])
        3
    """
    # A block is a run of units that no cut may part. The sum goes up where a cut is allowed, so the units of a block
    # have one number. Each block with a cost can be a stage.
    block = np.cumsum(_free(costs, units)[:-1])
    return len(set(block[np.asarray(costs) > 0].tolist()))


def _free(costs: Sequence[float], units: Sequence[Unit] | None) -> npt.NDArray[np.bool_]:
    return np.full(len(costs) + 1, True) if units is None else cut_points(units)


def _runs(costs: Sequence[float], stages: int, allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the cost of every run of units, `[start, end]`, infinite for a run that may not be a stage."""
    sums = np.concatenate([[0.0], np.cumsum(costs)])
    # The number of units with a cost before each point. A stage of units without a cost would only pass values on, so
    # it has to grow within a run; with one stage there is no choice.
    working = np.concatenate([[0], np.cumsum(np.asarray(costs) > 0)])
    runs: npt.NDArray[np.float64] = sums[None, :] - sums[:, None]
    # Above the diagonal, so that `start < end`; and a cut may fall at both ends.
    possible = (np.triu(np.ones_like(runs), 1) > 0) & allowed[:, None] & allowed[None, :]
    if stages > 1:
        possible &= working[None, :] > working[:, None]
    return np.where(possible, runs, np.inf)


def _check(costs: Sequence[float], stages: int, units: Sequence[Unit] | None) -> None:
    number = len(costs)
    if not 1 <= stages <= number:
        raise PlanError(f"Expected 1 to {number} stages for a model of {number} calls, received {stages}.")
    if not all(0 <= cost < np.inf for cost in costs):
        raise PlanError("Expected costs that are finite and not negative.")
    working = sum(cost > 0 for cost in costs)
    if stages > max(1, working):
        raise PlanError(
            f"Expected at most {working} stages, received {stages}: only {working} of the model's {number} calls cost "
            "anything by this measure, and a stage without weights or work only waits. Use fewer stages, or balance "
            "by another measure."
        )
    possible = most_stages(costs, units)
    if units is not None and stages > max(1, possible):
        # The number of blocks is too small, and only units that share a state join others into a block.
        shared = list(dict.fromkeys(unit.name for unit in units if unit.stays_with is not None))
        raise PlanError(
            f"Expected at most {possible} stage{'s' * (possible != 1)}, received {stages}: every call of {shared[:8]} "
            "changes a state that an earlier call has changed, so a cut between them would be a cut inside a shared "
            "layer. Use fewer stages, or give each call a layer of its own."
        )
