"""What a model's calls take on a device of a cluster: seconds of passes and of updates, bytes of tensors."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kparallel.errors import PlanError
from kparallel.forecast.hardware import Hardware
from kparallel.forecast.segments import joined, segments
from kparallel.planning.cut import most_stages, partition
from kparallel.planning.units import Unit, incoming_bytes

__all__: list[str] = []

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StageWork:
    """The stages of one cut, by stage.

    Args:
        starts: The first segment of each stage.
        weights, frozen, largest: Bytes of all weights, of those that are not trained, and of the largest trained one.
        activations: Bytes that a forward pass keeps for one row.
        arriving: Bytes that a stage reads from earlier ones for one row.
        sent: Bytes that cross the cut behind each stage but the last one, for one row.
    """

    starts: tuple[int, ...]
    weights: Array
    frozen: Array
    largest: Array
    activations: Array
    arriving: Array
    sent: Array

    @property
    def trained(self) -> Array:
        """The bytes of the gradients."""
        return self.weights - self.frozen


class Work:
    """A model's work on a device; it remembers what several configurations share.

    A call takes as long as its arithmetic at the device's FLOP/s, or as its traffic at the bandwidth of the device's
    memory, whichever is longer: weights and outputs are read or written once. To this comes what does not grow with the
    rows: the time steps of a loop.

    Args:
        units: The model's units.
        hardware: The cluster.
        dtype: The dtype in which it computes.
        seconds_per_row: Seconds of the forward pass of each unit for one row on this hardware, if they were measured;
            default from `flops_per_row`.
        seconds_per_call: Seconds of the forward pass of each unit that do not grow with the rows, if measured; default
            those of its loop.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        hardware: Hardware,
        dtype: str = "float32",
        seconds_per_row: Sequence[float] | None = None,
        seconds_per_call: Sequence[float] | None = None,
    ) -> None:
        if not units:
            raise PlanError("Expected a model with at least one call, received none.")
        self._hardware = hardware
        self._units = units
        self._first = segments(units)
        self.units = joined(units, self._first)
        if seconds_per_row is None:
            rate = hardware.flop_rate(dtype)
            seconds_per_row = [unit.flops_per_row / rate for unit in units]
        self._arithmetic = np.asarray(seconds_per_row, dtype=np.float64)
        if seconds_per_call is None:
            seconds_per_call = [unit.loop_steps * hardware.loop_step for unit in units]
            traffic = 1.0
        else:
            traffic = 0.0  # What was measured for both contains it.
        self._of_calls = np.asarray(seconds_per_call, dtype=np.float64)
        self._of_weights = traffic * self._traffic([unit.weight_bytes for unit in units])
        # An output is written, and read by the next call.
        self._of_rows = traffic * self._traffic([2 * unit.output_bytes_per_row for unit in units])
        # `_arithmetic`, `_of_weights` and `_of_rows` are by unit, in seconds; `reduceat` sums them over the units of
        # each segment.
        self._per_row = np.add.reduceat(np.maximum(self._arithmetic, self._of_rows), self._first)
        self._cuts: dict[int, StageWork] = {}  # By stages.
        self._passes: dict[int, Array] = {}  # By rows.
        self._stage_passes: dict[tuple[tuple[int, ...], int], Array] = {}  # By starts and rows.
        self._sums: dict[str, Array] = {}  # By attribute.

    @property
    def hardware(self) -> Hardware:
        """The cluster."""
        return self._hardware

    def on(self, hardware: Hardware) -> "Work":
        """Return the same work on another number of the same devices; what is remembered serves both."""
        self.incoming, self.most_stages  # noqa: B018  (computed before the copy)
        # A shallow copy: the tables are the same objects, and what one of them computes the other one finds.
        other = copy(self)
        other._hardware = hardware
        return other

    @cached_property
    def most_stages(self) -> int:
        """The largest number of stages into which the model can be cut."""
        return max(1, most_stages(self._per_row.tolist(), self.units))

    def forward(self, rows: int) -> Array:
        """Return the seconds of a forward pass of each segment on a microbatch of that many rows."""
        if rows not in self._passes:
            seconds = np.maximum(self._arithmetic * rows, self._of_weights + self._of_rows * rows)
            seconds += self._of_calls
            self._passes[rows] = np.add.reduceat(seconds, self._first)
        return self._passes[rows]

    def cut(self, stages: int, fits: npt.NDArray[np.bool_] | None = None) -> StageWork:
        """Return the stages of the cut whose slowest stage is as fast as possible.

        Args:
            stages: Their number.
            fits: `[stage, start, end]`: which runs of segments a stage can hold; default all.

        Raises:
            PlanError: There is no such cut.
        """
        if fits is not None:
            return self._stage_work(partition(self._per_row.tolist(), stages, self.units, fits))
        if stages not in self._cuts:
            starts = (0,) if stages == 1 else partition(self._per_row.tolist(), stages, self.units)
            self._cuts[stages] = self._stage_work(starts)
        return self._cuts[stages]

    def stage_forward(self, starts: tuple[int, ...], rows: int) -> Array:
        """Return the seconds of a forward pass of each stage on a microbatch of that many rows."""
        if (starts, rows) not in self._stage_passes:
            self._stage_passes[starts, rows] = np.add.reduceat(self.forward(rows), list(starts))
        return self._stage_passes[starts, rows]

    def update(self, trained: float, slots: float) -> float:
        """Return the seconds of updating weights: gradients are read, weights and slots are read and written.

        Args:
            trained: Bytes of the weights.
            slots: The number of optimizer variables for each weight.
        """
        return trained * (3 + 2 * slots) / self._hardware.memory_bandwidth

    @cached_property
    def incoming(self) -> Array:
        """The bytes that every run of segments reads from earlier ones, for one row, `[start, end]`."""
        return incoming_bytes(self.units)

    def run_sums(self, name: str) -> Array:
        """Return the sum of an attribute of the segments over every run of them, `[start, end]`."""
        if name not in self._sums:
            sums = np.concatenate([[0.0], np.cumsum([float(getattr(unit, name)) for unit in self.units])])
            self._sums[name] = sums[None, :] - sums[:, None]
        return self._sums[name]

    def _stage_work(self, starts: Sequence[int]) -> StageWork:
        first = list(starts)
        ends = [*first[1:], len(self.units)]

        def total(name: str) -> Array:
            return np.add.reduceat([float(getattr(unit, name)) for unit in self.units], first)

        return StageWork(
            tuple(first),
            total("weight_bytes"),
            total("frozen_bytes"),
            np.maximum.reduceat([float(unit.largest_bytes) for unit in self.units], first),
            total("activation_bytes_per_row"),
            self.incoming[first, ends] if len(first) > 1 else np.zeros(1),
            self.incoming[first[1:], len(self.units)] if len(first) > 1 else np.zeros(0),
        )

    def _traffic(self, sizes: Sequence[float]) -> Array:
        return np.asarray(sizes, dtype=np.float64) / self._hardware.memory_bandwidth
