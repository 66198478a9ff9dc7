"""Searches for a plan: the fastest that fits the memory of every device."""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil

import numpy as np
import numpy.typing as npt

from kparallel.errors import PlanError
from kparallel.mesh import Mesh
from kparallel.planning.candidate import Candidate, candidates
from kparallel.planning.cut import least_slowest, most_stages, partition
from kparallel.planning.groups import layer_groups
from kparallel.planning.memory import stage_memory
from kparallel.planning.plan import Plan
from kparallel.planning.predict import even_replicas, predict, step_time_bound
from kparallel.planning.report import count, format_bytes
from kparallel.planning.request import Request
from kparallel.planning.units import cut_points, incoming_bytes
from kparallel.schedule import deferred, in_flight, programs_for, registered, splits_backward

__all__: list[str] = []

Rows = tuple[tuple[str, ...], ...]


def choose(
    request: Request, *, shard: str | None = None, rows_of: Callable[[int, int], Rows | None] | None = None
) -> Plan:
    """Choose replicas, stages, microbatches and recompute policy with the least predicted step time that fit.

    Plain data parallelism is chosen whenever it fits.

    Args:
        request: The model, the devices, and what is fixed.
        shard: `"optimizer"` for plans of several replicas that share the optimizer's slots out; default None. For
            `"weights"` there is `choose_shared`.
        rows_of: Returns the devices of each replica for the numbers of replicas and stages, or None if there are none;
            default neighbors among the devices.

    Returns:
        The plan, with its reason.

    Raises:
        PlanError: No plan fits; the message has the closest miss. Or an argument is out of its range.
        DeviceError: A device is named twice.

    Example:
        >>> from kparallel.planning.units import Unit
        >>> units = [Unit(f"dense_{i}", 1e6, 1000, 4000, 4000, 4000, (), (f"dense_{i}",)) for i in range(4)]
        >>> print(choose(Request(units, ["CPU:0", "CPU:1"], batch_size=32, memory_per_device="1MB")))
        plan for 'model': 2 replicas x 1 stage
                    stage 0
        replica 0   CPU:0
        replica 1   CPU:1
        stage 0: 4 layers, 4,000 parameters, 16 kB of weights on each of CPU:0, CPU:1
        chosen: plain data parallelism fits: 320 kB of 1 MB on each device
    """
    units, devices, batch_size = request.units, request.devices, request.batch_size
    if batch_size < 1 or not units or not devices:
        raise PlanError(
            f"Expected a batch, units and devices, received batch_size={batch_size}, {len(units)} units and "
            f"{len(devices)} devices."
        )
    Mesh(tuple((name,) for name in devices))  # Refuses a device that is named twice.
    search = _Search(request, shard is not None)
    fixed = (request.replicas, request.stages, request.microbatches, request.recompute)
    possible = list(candidates(len(devices), batch_size, search.most_stages, fixed))
    rows_of = rows_of or partial(_neighbors, devices)
    possible = [each for each in possible if rows_of(each.replicas, each.stages) is not None]
    if shard is not None:  # One replica has nobody to share with.
        possible = [each for each in possible if each.replicas > 1]
    if not possible:
        raise PlanError(
            f"Expected a plan for {count(len(devices), 'device')}, a batch of {count(batch_size, 'row')} and at most "
            f"{count(search.most_stages, 'stage')}, received replicas={request.replicas}, "
            f"stages={request.stages}, microbatches={request.microbatches}, shard={shard!r}. Every replica needs a row "
            "for each microbatch and a device for each stage; a sharded optimizer needs several replicas."
        )
    best, reason = search.best(possible)
    stage_of = search.stage_of(best)
    rows = rows_of(best.replicas, best.stages)
    assert rows is not None
    return Plan(
        request.model_name,
        Mesh(rows),
        layer_groups(units, stage_of, best.stages, request.costs),
        best.microbatches,
        request.schedule,
        best.recompute,
        batch_size,
        request.slots,
        reason,
        shard=shard,
    )


def _neighbors(devices: Sequence[str], replicas: int, stages: int) -> Rows:
    """Return rows of devices that are listed next to each other.

    Stages exchange values for each microbatch, and replicas once a step.
    """
    return tuple(tuple(devices[row * stages : (row + 1) * stages]) for row in range(replicas))


class _Search:
    """The tables that all candidates share. A table `[start, end]` has an entry for every run of units."""

    def __init__(self, request: Request, sharded: bool) -> None:
        self._units = units = request.units
        self._costs = request.unit_costs
        self._schedule = schedule = request.schedule
        self._batch_size = request.batch_size
        self._limit = request.limit
        self._slots = request.slots
        self._sharded = sharded
        self._weights = _runs([unit.weight_bytes for unit in units])
        self._frozen = _runs([unit.frozen_bytes for unit in units])
        self._largest = _largest([unit.largest_bytes for unit in units])
        self._activations = _runs([unit.activation_bytes_per_row for unit in units])
        self._incoming = incoming_bytes(units)
        self._free: dict[int, tuple[int, ...]] = {}  # By stages: the best cut without a memory limit.
        # By (stages, microbatches): for each stage, what is in flight and what is deferred.
        self._flying: dict[tuple[int, int], list[tuple[int, int]]] = {}
        # An own schedule may split its backward passes. The bound of those that do holds for all.
        named = schedule if isinstance(schedule, str) else None
        self._split = named is None or splits_backward(registered(named).make(1)(1, 1))
        self._least: dict[Candidate, float] = {}  # Bytes on the fullest device for the best cut.
        allowed = cut_points(units)
        self._possible = (np.triu(np.ones_like(self._weights), 1) > 0) & allowed[:, None] & allowed[None, :]
        self.most_stages = max(1, most_stages(self._costs, units))

    def best(self, candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
        """Return the candidate with the least predicted step time that fits, and the reason as text."""
        plain = next((each for each in candidates if each.plain), None)
        if plain is not None and self._least_memory(plain) <= self._limit:
            return plain, f"plain data parallelism fits{self._told(plain)}"
        best, least = None, np.inf
        for each in sorted(candidates, key=lambda each: (self._bound(each), *each.simplicity)):
            if self._bound(each) >= least:
                break  # All further candidates are slower too. Memory takes longest to compute, so it comes last.
            time = self._time(each) if self._least_memory(each) <= self._limit else np.inf
            # By more than rounding: of two plans that are equally fast the first in this order stays, on every
            # machine.
            if time < least * (1 - 1e-9):
                best, least = each, time
        if best is None:
            raise self._miss(candidates)
        why = f"of {count(len(candidates), 'plan')}, the least predicted step time"
        if not np.isinf(self._limit):
            why += f" that fits {format_bytes(self._limit)} a device"
        if plain is not None:
            why += f"; plain data parallelism needs {format_bytes(self._least_memory(plain))}"
        return best, why

    def stage_of(self, candidate: Candidate) -> tuple[int, ...]:
        """Return the stage of each unit."""
        starts = self._starts(candidate)
        assert starts is not None
        return tuple(sum(index >= start for start in starts) - 1 for index in range(len(self._units)))

    def _told(self, candidate: Candidate) -> str:
        if np.isinf(self._limit):
            return ""
        return f": {format_bytes(self._least_memory(candidate))} of {format_bytes(self._limit)} on each device"

    def _memory(self, candidate: Candidate) -> npt.NDArray[np.float64]:
        """Return the bytes of every run of units on every stage, `[stage, start, end]`."""
        rows = ceil(ceil(self._batch_size / candidate.replicas) / candidate.microbatches)
        shape = candidate.stages, candidate.microbatches
        # Simulated with one stage on a lane, which is what `choose` makes.
        if shape not in self._flying:
            programs = programs_for(self._schedule, *shape)
            self._flying[shape] = list(zip(in_flight(programs), deferred(programs), strict=True))
        activations, incoming = rows * self._activations, rows * self._incoming
        tables = [
            stage_memory(
                self._weights,
                activations,
                incoming,
                microbatches_in_flight,
                candidate.recompute,
                self._slots,
                self._frozen,
                candidate.replicas if self._sharded else 1,
                self._largest,
                microbatches_deferred,
            ).total
            for microbatches_in_flight, microbatches_deferred in self._flying[shape]
        ]
        return np.where(self._possible, np.stack(tables), np.inf)

    def _least_memory(self, candidate: Candidate) -> float:
        """Return the bytes on the fullest device, for the cut that needs the least."""
        if candidate not in self._least:
            self._least[candidate] = least_slowest(self._memory(candidate))
        return self._least[candidate]

    def _free_starts(self, stages: int) -> tuple[int, ...]:
        if stages not in self._free:
            self._free[stages] = partition(self._costs, stages, self._units)
        return self._free[stages]

    def _starts(self, candidate: Candidate) -> tuple[int, ...] | None:
        """Return the best cut that fits, or None if there is none in which every stage has work."""
        fits = self._memory(candidate) <= self._limit
        # Most candidates fit with the cut that no limit constrains, and that one is found once for each number of
        # stages.
        starts = self._free_starts(candidate.stages)
        ends = (*starts[1:], len(self._units))
        if all(fits[stage, start, end] for stage, (start, end) in enumerate(zip(starts, ends, strict=True))):
            return starts
        try:
            return partition(self._costs, candidate.stages, self._units, fits)
        except PlanError:
            return None

    def _shares(self, starts: Sequence[int]) -> list[float]:
        total = sum(self._costs)
        ends = (*starts[1:], len(self._units))
        parts = [sum(self._costs[start:end]) for start, end in zip(starts, ends, strict=True)]
        return [part / total if total else 1 / len(starts) for part in parts]

    def _bound(self, candidate: Candidate) -> float:
        """Return a lower bound of the candidate's time: that of the slowest stage of the best cut without a limit."""
        share = max(self._shares(self._free_starts(candidate.stages)))
        # Of all cuts none has a smaller most expensive stage than this one. The other stages' costs are set to
        # nothing, and the slowest to the first place, before which nothing passes; so no cut of this candidate is
        # faster.
        least = [share] + [0.0] * (candidate.stages - 1)
        return step_time_bound(least, candidate.microbatches, self._speed(candidate), candidate.recompute, self._split)

    def _time(self, candidate: Candidate) -> float:
        starts = self._starts(candidate)
        if starts is None:
            return np.inf
        programs = programs_for(self._schedule, candidate.stages, candidate.microbatches)
        shares = self._shares(starts)
        return predict(shares, programs, candidate.microbatches, self._speed(candidate), candidate.recompute).step_time

    def _speed(self, candidate: Candidate) -> float:
        return even_replicas(self._batch_size, candidate.replicas)

    def _miss(self, candidates: Sequence[Candidate]) -> PlanError:
        need, closest = min(
            ((self._least_memory(each), each) for each in candidates), key=lambda pair: (pair[0], *pair[1].simplicity)
        )
        return PlanError(
            f"Expected a plan that fits {format_bytes(self._limit)} per device; there is none. The closest miss is "
            f"{closest}, which needs {format_bytes(need)} on its fullest device. Use more devices, a smaller "
            f"batch_size (now {self._batch_size}), an optimizer with fewer slots, or layers that a cut can part."
        )


def _runs(sizes: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the sum over every run of units, `[start, end]`."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(sizes, dtype=np.float64))])
    return np.asarray(sums[None, :] - sums[:, None])


def _largest(sizes: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the largest size of every run of units, `[start, end]`."""
    largest = np.zeros((len(sizes) + 1, len(sizes) + 1))
    for start in range(len(sizes)):
        largest[start, start + 1 :] = np.maximum.accumulate(np.asarray(sizes[start:], dtype=np.float64))
    return largest
