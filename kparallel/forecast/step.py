"""Predicts one training step of a configuration on a cluster: its time, in terms, and the memory of a device."""

from dataclasses import replace
from math import ceil

import numpy as np

from kparallel.errors import PlanError
from kparallel.forecast.brought import waiting
from kparallel.forecast.configuration import Configuration
from kparallel.forecast.device_memory import device_memory, fitting_runs
from kparallel.forecast.estimate import Estimate, StepTime
from kparallel.forecast.placement import Placement, all_reduce, hop, place
from kparallel.forecast.timing import Timing, lanes_of, splits, timing
from kparallel.forecast.work import Array, StageWork, Work
from kparallel.planning.predict import BACKWARD_COST

__all__: list[str] = []

# A gradient of at least so many bytes travels alone, smaller ones share packs of as many: kparallel/comm/packs.py.
PACK = 2**22


class StepModel:
    """Predicts steps of one model with one batch size on one cluster.

    Args:
        work: The model on the cluster.
        batch_size: The number of rows of a global batch.
        slots: The number of optimizer variables for each weight; default 2, as for Adam.
        pack: Bytes of gradients that travel together. Default 4 MiB, as kparallel's own.
    """

    def __init__(self, work: Work, batch_size: int, slots: float = 2, pack: int = PACK) -> None:
        self._work = work
        self._pack = pack
        self._batch_size = batch_size
        self._slots = slots

    @property
    def work(self) -> Work:
        """The model on the cluster."""
        return self._work

    @property
    def batch_size(self) -> int:
        """The number of rows of a global batch."""
        return self._batch_size

    def with_work(self, work: Work, batch_size: int) -> "StepModel":
        """Return the same model elsewhere, with another batch."""
        return StepModel(work, batch_size, self._slots, self._pack)

    def rows(self, configuration: Configuration) -> int:
        """Return the number of rows of the largest microbatch."""
        return ceil(ceil(self._batch_size / configuration.replicas) / configuration.microbatches)

    def memory(self, configuration: Configuration, stages: StageWork) -> Array:
        """Return the bytes on each device of a replica."""
        return device_memory(configuration, stages, self.rows(configuration), self._slots)

    def quick_time(self, configuration: Configuration) -> float:
        """Return a time that `estimate` never falls below with the same cut, without simulation and transfers.

        Every device is busy with all microbatches. Before it starts, and after it ends, one microbatch passes through
        the stages before its own. The first device is among the last to end. Its last backward pass hides at most as
        much of the reduction as it takes itself.
        """
        stages, lanes = self._work.cut(configuration.stages), configuration.lanes
        forward, backward, weight = self._passes(configuration, stages)
        # `[stage]`. Stage s is on lane s % lanes, or there is one stage on each lane; so `reshape(-1, lanes)` has a
        # row for each round over the lanes, and a column for each lane.
        busy = configuration.microbatches * (forward + backward + weight).reshape(-1, lanes).sum(axis=0)
        # On its way back a microbatch passes beside the gradients of weights, where these are computed apart.
        way = forward if splits(configuration.schedule) else forward + backward
        ends = busy + np.concatenate([[0.0], np.cumsum(way[: lanes - 1])])
        group = self._placement(configuration).group
        # A sum to owners is half of an all-reduce; the other half, the way back, is that of the new weights.
        part = 0.5 if configuration.shard else 1.0
        sums = part * all_reduce(self._work.hardware, group, float(stages.trained[0]))
        late = max(0.0, sums - float(weight[0] if splits(configuration.schedule) else backward[0]))
        update = self._work.update(float(self._owned(configuration, stages)[0]), self._slots)
        return max(float(ends.max()), float(ends[0]) + late + update)

    def fitting_cut(self, configuration: Configuration) -> StageWork | None:
        """Return the stages of the fastest cut that fits the memory of every device, None if there is none.

        The cut that balances time is taken if it fits. Else one is sought that fits, unless all devices together
        have too little memory for the former: then recomputation or more stages are faster than any cut.
        """
        limit = self._work.hardware.memory_per_device
        stages = self._work.cut(configuration.stages)
        if configuration.shard == "weights":  # What is brought at a time shrinks with the stages, not with the cut.
            return stages if self.memory(configuration, stages).max() <= limit else None
        # Weights, gradients and slots.
        held = stages.weights + stages.trained + self._slots * self._owned(configuration, stages)
        if held.sum() > limit * configuration.lanes:  # Without any activation.
            return None
        memory = self.memory(configuration, stages)
        if memory.max() <= limit:
            return stages
        if configuration.stages == 1 or memory.mean() > limit:
            return None
        try:
            fits = fitting_runs(configuration, self._work, self.rows(configuration), self._slots)
            stages = self._work.cut(configuration.stages, fits)
        except PlanError:
            return None
        return stages if self.memory(configuration, stages).max() <= limit else None

    def estimate(self, configuration: Configuration, stages: StageWork) -> Estimate:
        """Predict a step.

        Args:
            configuration: The configuration.
            stages: Its stages.
        """
        placement = self._placement(configuration)
        delays, occupied = self._transfers(configuration, stages, placement)
        forward, backward, weight = (of_kind.tolist() for of_kind in self._passes(configuration, stages))
        shape = configuration.schedule, configuration.lanes, configuration.microbatches
        # Twice: without transfers for the term `bubble`, and with them for what transfers add.
        alone = timing(*shape, forward, backward, [0.0] * len(delays), weight)
        linked = timing(*shape, forward, backward, delays, weight) if any(delays) else alone
        # A link carries one microbatch after another; where it takes longer than the stages, they wait for it.
        late = max(0.0, configuration.microbatches * max(occupied, default=0.0) - linked.makespan)
        linked = Timing(linked.makespan + late, tuple(end + late for end in linked.ends))
        reduction, update = self._after(configuration, stages, linked, placement)
        time = self._terms(configuration, stages, alone, linked)
        return Estimate(
            configuration,
            replace(time, reduction=reduction, update=update),
            float(self.memory(configuration, stages).max()),
            self._batch_size,
            stages.starts,
        )

    def _placement(self, configuration: Configuration) -> Placement:
        shape = configuration.replicas, configuration.lanes
        return place(self._work.hardware.devices_per_machine, *shape, configuration.neighbors)

    def _passes(self, configuration: Configuration, stages: StageWork) -> tuple[Array, Array, Array]:
        """Return the seconds of a forward pass, a backward pass and its part `W` of each stage, with their start."""
        forward = self._work.stage_forward(stages.starts, self.rows(configuration))
        again = forward * _repeated(configuration)
        start = self._work.hardware.action_start
        if not splits(configuration.schedule):
            return forward + start, forward * BACKWARD_COST + again + start, np.zeros_like(forward)
        half = forward * BACKWARD_COST / 2
        return forward + start, half + again + start, half + start

    def _terms(self, configuration: Configuration, stages: StageWork, alone: Timing, linked: Timing) -> StepTime:
        """Return what the device that has most to do spends its time with."""
        forward = self._work.stage_forward(stages.starts, self.rows(configuration))
        passes = configuration.microbatches * float(forward.reshape(-1, configuration.lanes).sum(axis=0).max())
        compute, recompute = passes * (1 + BACKWARD_COST), passes * _repeated(configuration)
        # Of each kind an action for each stage of the lane and each microbatch.
        kinds = 3 if splits(configuration.schedule) else 2
        actions = kinds * configuration.microbatches * configuration.stages // configuration.lanes
        start = actions * self._work.hardware.action_start
        bubble = max(0.0, alone.makespan - compute - recompute - start)
        return StepTime(compute, recompute, start, bubble, linked.makespan - alone.makespan, 0.0, 0.0)

    def _transfers(
        self, configuration: Configuration, stages: StageWork, placement: Placement
    ) -> tuple[list[float], list[float]]:
        """Return, between each stage and the next, the seconds on the way and those in which the link is occupied."""
        lane_of = lanes_of(configuration.schedule, configuration.stages, configuration.lanes)
        sizes = self.rows(configuration) * stages.sent
        hops = [
            hop(self._work.hardware, placement, lane, float(size))
            for lane, size in zip(lane_of, sizes, strict=False)  # The last stage sends nothing.
        ]
        # By lane: several stages of a lane share its link.
        occupied = np.zeros(configuration.lanes)
        for lane, (_, seconds) in zip(lane_of, hops, strict=False):
            occupied[lane] += seconds
        return [seconds for seconds, _ in hops], occupied.tolist()

    def _after(
        self, configuration: Configuration, stages: StageWork, linked: Timing, placement: Placement
    ) -> tuple[float, float]:
        """Return the seconds of reduction and update that come after the last backward pass of all.

        With `shard="weights"` the first are those that weights and gradients on their way add to the passes.

        The gradients of a lane's stages travel in the order in which their last backward passes end.
        """
        hardware, group = self._work.hardware, placement.group
        lane_of = lanes_of(configuration.schedule, configuration.stages, configuration.lanes)
        owned = self._owned(configuration, stages)
        if configuration.shard == "weights":
            brought = [all_reduce(hardware, group, float(size)) / 2 for size in stages.trained]
            forward, backward, weight = (of_kind.tolist() for of_kind in self._passes(configuration, stages))
            late = waiting(configuration.schedule, configuration.microbatches, forward, backward, brought, weight)
            return late, self._work.update(float(owned.sum()), self._slots)
        # The latest end over all lanes. What lies before the last backward pass of all is hidden by it.
        reduced = updated = linked.makespan
        for lane in range(configuration.lanes):
            # The backward pass of a later stage ends earlier, so its gradients travel first.
            own = sorted((s for s in range(configuration.stages) if lane_of[s] == lane), key=linked.ends.__getitem__)
            end = 0.0
            for stage in own:
                end = self._summed(configuration, stages, stage, linked.ends[stage], end, placement)
            if configuration.shard:  # New weights go from their owners to the other replicas.
                end += all_reduce(hardware, group, float(sum(stages.trained[stage] for stage in own))) / 2
            update = self._work.update(float(sum(owned[stage] for stage in own)), self._slots)
            reduced, updated = max(reduced, end), max(updated, end + update)
        return reduced - linked.makespan, max(updated, reduced) - reduced

    def _owned(self, configuration: Configuration, stages: StageWork) -> Array:
        """Return the bytes of the weights that one device updates, by stage."""
        if configuration.shard is None:
            return stages.trained
        return np.maximum(stages.trained / configuration.replicas, stages.largest)

    def _summed(
        self, configuration: Configuration, stages: StageWork, stage: int, end: float, free: float, placement: Placement
    ) -> float:
        """Return when the gradients of a stage are summed; its last backward pass hides what it can.

        Args:
            configuration, stages, stage: The stage.
            end: When its last backward pass ends.
            free: When the gradients of earlier ones are summed.
            placement: Between which devices they travel.
        """
        if configuration.replicas == 1:
            return end
        first = stages.starts[stage]
        last = stages.starts[stage + 1] if stage + 1 < configuration.stages else len(self._work.units)
        cost = BACKWARD_COST / 2 if splits(configuration.schedule) else BACKWARD_COST
        backward = cost * self._work.forward(self.rows(configuration))[first:last][::-1]
        done = end - backward.sum() + np.cumsum(backward)  # When the gradients of each segment are there, last first.
        waiting = 0.0
        for index, unit in enumerate(reversed(self._work.units[first:last])):
            # A pack is complete when it has so many bytes, or with the last gradient; it starts when its last gradient
            # is there and the link is free.
            waiting += unit.weight_bytes - unit.frozen_bytes
            if waiting >= self._pack or index == last - first - 1:
                sums = all_reduce(self._work.hardware, placement.group, waiting)
                free = max(free, float(done[index])) + sums * (0.5 if configuration.shard else 1.0)
                waiting = 0.0
        return free


def _repeated(configuration: Configuration) -> float:
    """Return how often a forward pass is run again, on the average of the microbatches."""
    return {"never": 0.0, "always": 1.0, "except_last": 1 - 1 / configuration.microbatches}[configuration.recompute]
