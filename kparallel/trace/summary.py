"""The figures of a recording as an object and as text: step time, bubble, fractions of time, the slowest stage."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from kparallel.forecast.estimate import Estimate
from kparallel.planning.plan import Plan
from kparallel.planning.predict import passes
from kparallel.planning.report import between_lines, brief, count, format_bytes, schedule_name
from kparallel.schedule import BACKWARD, FORWARD, WEIGHT, Clock, clock, splits_backward
from kparallel.trace.breakdown import Breakdown, attribute_time, average
from kparallel.trace.events import RecordedStep
from kparallel.trace.lanes import LaneStep, programs_of
from kparallel.trace.prediction import prediction_line
from kparallel.trace.processes import Machine, Process

__all__: list[str] = []


@dataclass(frozen=True)
class Summary:
    """The figures of a recording.

    Args:
        plan: The plan that ran.
        step_times: The time of each recorded step, in seconds.
        shares: The fractions of the devices' time by cause, averaged over devices and steps.
        bubble: The fraction of the pipeline's time in which a device ran no action.
        bubble_planned: The bubble in a simulation with the plan's costs.
        bubble_of_stages: The bubble in a simulation with the measured times of the stages.
        forward: `[s]`: the mean time of a forward action, in seconds; 0 if none was recorded.
        backward: `[s]`: the mean time of a backward action, likewise; where it is split, of its part `B`.
        weight: `[s]`: the mean time of the part `W` of a split backward pass, likewise.
        devices: The largest number of devices that share the same cores.
        cores: The number of these cores, or None if each device computes by itself.
        threads: The number of threads of one operation.
        planned: The times of all actions in a simulation with the plan's costs, in seconds.
        busiest: The seconds of a step, by the names of `Breakdown`, of the device that computes longest.
        predicted: What a forecast says of a step, or None.
        processes: In one program over several machines, each worker's process, by its index; else empty.
    """

    plan: Plan
    step_times: tuple[float, ...]
    shares: Breakdown
    bubble: float
    bubble_planned: float
    bubble_of_stages: float
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    weight: tuple[float, ...]
    devices: int
    cores: int | None
    threads: int
    planned: Clock
    busiest: Mapping[str, float] = field(default_factory=dict)
    predicted: Estimate | None = None
    processes: Mapping[int, Process] = field(default_factory=dict)

    @property
    def step_time(self) -> float:
        """The mean time of a step, in seconds."""
        return fmean(self.step_times)

    @property
    def stage_times(self) -> tuple[float, ...]:
        """`[s]`: the time that each stage computes in a step on one replica, in seconds."""
        by_stage = zip(self.forward, self.backward, self.weight, strict=True)
        return tuple(self.plan.microbatches * sum(times) for times in by_stage)

    @property
    def slowest(self) -> int:
        """The index of the stage that computes longest."""
        return max(range(len(self.stage_times)), key=self.stage_times.__getitem__)

    @property
    def imbalance(self) -> float:
        """The time of the slowest stage divided by the mean over the stages."""
        # Without any recorded action all times are 0, and no stage is slower than another.
        mean = fmean(self.stage_times)
        return self.stage_times[self.slowest] / mean if mean else 1.0

    def layers_of(self, stage: int) -> str:
        """Return the names of a stage's layers; if there are many, without those in the middle."""
        names = [name for group in self.plan.groups for name in group.layers] if self.plan.placed else None
        return brief(tuple(names) if names else self.plan.groups[stage].layers, 6)

    def __str__(self) -> str:
        return "\n".join([_head(self), *_lines(self)])


def summarize(
    plan: Plan, steps: Sequence[RecordedStep], laid: Sequence[Sequence[LaneStep]], machine: Machine
) -> Summary:
    """Return the figures of recorded steps.

    Args:
        plan: The plan that ran.
        steps: The recorded steps.
        laid: `[step][lane]`.
        machine: The machine.
    """
    programs = programs_of(plan)
    number = 1 + max(action.stage for program in programs for action in program)
    homes = [lane.lane for lane in laid[0]]
    # The lanes that share the cores that most lanes share.
    crowded = max((machine.beside(home, homes) for home in homes), key=len)
    measured = _stage_times(laid, number)
    parts = _parts(steps, laid, number, machine)
    # Layers that are placed by name are one stage here, whatever the number of groups.
    shares = [group.share for group in plan.groups] if number > 1 else [1.0]
    forward, backward, weight = map(tuple, measured)
    costs = passes(shares, plan.microbatches, plan.recompute, splits_backward(programs))
    total = sum(map(sum, measured))
    # The plan's costs have no unit. They are scaled so that all stages together take what was measured.
    scale = total / sum(map(sum, costs))
    planned = clock(programs, *([time * scale for time in of_kind] for of_kind in costs))
    return Summary(
        plan,
        tuple(step.end - step.start for step in steps),
        average([part for of_step in parts for part in of_step]),
        fmean(_bubble(lanes) for lanes in laid),
        planned.bubble,
        clock(programs, *measured).bubble if total else 0.0,
        forward,
        backward,
        weight,
        len(crowded),
        machine.cores_of(crowded[0]),
        machine.threads,
        planned,
        _busiest(parts),
        processes=machine.processes,
    )


def _parts(
    steps: Sequence[RecordedStep], laid: Sequence[Sequence[LaneStep]], stages: int, machine: Machine
) -> list[list[dict[str, float]]]:
    """Return the seconds of each cause, `[step][lane]`."""
    homes = [lane.lane for lane in laid[0]]
    return [
        [
            attribute_time(step, lane, lanes, stages, machine.cores_of(lane.lane), machine.beside(lane.lane, homes))
            for lane in lanes
        ]
        for step, lanes in zip(steps, laid, strict=True)
    ]


def _busiest(parts: Sequence[Sequence[dict[str, float]]]) -> dict[str, float]:
    """Return the mean seconds of a step, by cause, of the lane that computes longest."""
    lanes = [
        {cause: fmean(part.get(cause, 0.0) for part in of_lane) for cause in {c for part in of_lane for c in part}}
        for of_lane in zip(*parts, strict=True)
    ]
    return max(lanes, key=lambda lane: lane.get("work", 0.0))


def _stage_times(laid: Sequence[Sequence[LaneStep]], stages: int) -> list[list[float]]:
    """Return the mean times of each stage's actions, `[kind][s]`: forward, backward, weight; 0 if there are none."""
    times: dict[tuple[int, str], list[float]] = defaultdict(list)
    for lane in (lane for lanes in laid for lane in lanes):
        for action, (start, end) in lane.slices.items():
            times[action.stage, action.kind].append(end - start)
    # Over all replicas and recorded steps.
    return [[fmean(times.get((stage, kind), [0.0])) for stage in range(stages)] for kind in (FORWARD, BACKWARD, WEIGHT)]


def _bubble(lanes: Sequence[LaneStep]) -> float:
    """Return the fraction of a step in which lanes ran no action, between the first start and last end of a replica."""
    rows: dict[int, list[LaneStep]] = defaultdict(list)
    for lane in lanes:
        rows[lane.lane.replica].append(lane)
    shares = []
    for row in rows.values():
        spans = [span for lane in row for span in lane.slices.values()]
        if spans:
            duration = max(end for _, end in spans) - min(start for start, _ in spans)
            busy = sum(end - start for start, end in spans)
            shares.append(1 - busy / (len(row) * duration) if duration else 0.0)
    return fmean(shares) if shares else 0.0


def _head(summary: Summary) -> str:
    plan = summary.plan
    text = f"{plan.model_name}: {count(plan.replicas, 'replica')} x {count(plan.mesh.stages, 'stage')}"
    if plan.microbatches > 1:
        text += f", {count(plan.microbatches, 'microbatch')}, schedule {schedule_name(plan)}"
    return f"{text}; {count(len(summary.step_times), 'step')} recorded"


def _lines(summary: Summary) -> list[str]:
    shares, milliseconds = summary.shares, [seconds * 1e3 for seconds in summary.step_times]
    lines = [f"step time      {summary.step_time * 1e3:.3g} ms ({min(milliseconds):.3g} to {max(milliseconds):.3g} ms)"]
    if len(summary.stage_times) > 1:
        lines.append(
            f"bubble         {summary.bubble:.0%} measured, {summary.bubble_planned:.0%} planned, "
            f"{summary.bubble_of_stages:.0%} with the measured stage times"
        )
    lines += [
        f"computing      {shares.work:.0%}, update {shares.update:.0%}",
        f"communication  {shares.communication:.0%}: {shares.reduction:.0%} summing between replicas, "
        f"{shares.stage:.0%} waiting for another stage, {shares.transfer:.0%} receiving from it",
        f"input          {shares.input:.0%} waiting for the next batch",
        f"overhead       {shares.overhead:.0%} Python and starting operations",
    ]
    if summary.cores is not None and summary.devices > 1:
        lines.append(f"shared cores   {shares.sharing:.0%} ready, but all {summary.cores} cores are taken")
    if len(summary.stage_times) > 1:
        slowest, each = summary.slowest, ", ".join(f"{seconds * 1e3:.3g}" for seconds in summary.stage_times)
        lines.append(
            f"slowest stage  {slowest} ({summary.layers_of(slowest)}), {summary.imbalance:.1f} times the mean; "
            f"all stages: {each} ms a step"
        )
    if summary.predicted is not None:
        lines.append(f"prediction     {prediction_line(summary.predicted, summary.step_time, summary.busiest)}")
    return lines + machine_lines(summary)


def machine_lines(summary: Summary, batch_size: int | None = None) -> list[str]:
    """Return what passes between the machines of one program and what each process holds; nothing on one machine.

    Args:
        summary: The figures.
        batch_size: The rows of a batch; default the plan's, and for each row where that has none.
    """
    if not summary.processes:
        return []
    held = "; ".join(
        f"worker {index} on {process.host} {format_bytes(process.memory)}, at its peak "
        f"{format_bytes(process.most_memory)}"
        for index, process in summary.processes.items()
    )
    between = [f"between        {line}" for line in between_lines(summary.plan, batch_size)]
    return [*between, f"memory         of each process: {held}"]
