"""The time of a schedule on lanes: when each stage ends its last backward pass, and how much it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from kparallel.schedule import (
    BACKWARD,
    FORWARD,
    WEIGHT,
    Action,
    Programs,
    deferred,
    fold,
    in_flight,
    linear_order,
    registered,
    splits_backward,
)

__all__: list[str] = []


@dataclass(frozen=True)
class Timing:
    """When a step's passes end.

    Args:
        makespan: Seconds from the first start to the last end.
        ends: By stage: the seconds until its last backward pass ends, also that of its weights where it is split.
    """

    makespan: float
    ends: tuple[float, ...]


def lanes_of(schedule: str, stages: int, lanes: int) -> tuple[int, ...]:
    """Return the lane of each stage."""
    entry = registered(schedule)
    return tuple(entry.lane_of(stage, stages, lanes) for stage in range(stages))


@lru_cache(maxsize=256)
def programs_of(schedule: str, stages: int, microbatches: int, lanes: int) -> Programs:
    """Return the program of each lane; where one device runs all stages, as it runs them for `shard="weights"`."""
    programs = registered(schedule).make(lanes)(stages, microbatches)
    return programs if len(programs) == lanes else fold(programs, lanes_of(schedule, stages, lanes))


@dataclass(frozen=True)
class _Step:
    """An action, in the order of a simulation; a schedule is simulated many times with other durations.

    Args:
        lane, stage: Where it runs.
        kind: That of the action.
        needs: The positions of the actions that it reads from, each with the pair of stages between which its result
            travels, or -1 where both are on one lane.
    """

    lane: int
    stage: int
    kind: str
    needs: tuple[tuple[int, int], ...]


@lru_cache(maxsize=64)
def _order(schedule: str, stages: int, microbatches: int, lanes: int) -> tuple[_Step, ...]:
    programs = programs_of(schedule, stages, microbatches, lanes)
    lane_of = {action.stage: lane for lane, program in enumerate(programs) for action in program}
    order = linear_order(programs)
    position = {action: index for index, action in enumerate(order)}

    def travels(one: Action, other: Action) -> int:
        # Stage s and s + 1 exchange values forward and backward over one link, which has the index s.
        return min(one.stage, other.stage) if lane_of[one.stage] != lane_of[other.stage] else -1

    return tuple(
        _Step(
            lane_of[action.stage],
            action.stage,
            action.kind,
            tuple((position[need], travels(need, action)) for need in action.needs(stages)),
        )
        for action in order
    )


def timing(
    schedule: str,
    lanes: int,
    microbatches: int,
    forward: Sequence[float],
    backward: Sequence[float],
    transfer: Sequence[float],
    weight: Sequence[float] = (),
) -> Timing:
    """Simulate one step.

    Once a pipeline is full, every further microbatch takes as long as the one before it. So many microbatches are not
    simulated: the time between those of four and of six for each lane is continued.

    Args:
        schedule: The name of the schedule.
        lanes: The number of devices of a replica.
        microbatches: The number of microbatches.
        forward: Seconds of a forward pass on one microbatch, by stage.
        backward: Seconds of a backward pass, by stage.
        transfer: Seconds between a stage and the next one.
        weight: Seconds of the part `W` of a backward pass, by stage, for a schedule that splits it.

    Example:
        >>> timing("1f1b", 4, 1000, [1.0] * 4, [2.0] * 4, [0.0] * 3).makespan
        3009.0
    """

    seconds = {FORWARD: forward, BACKWARD: backward, WEIGHT: weight}

    def simulated(number: int) -> Timing:
        free, ends = [0.0] * lanes, [0.0] * len(forward)
        finish: list[float] = []
        for step in _order(schedule, len(forward), number, lanes):
            # Two recurrences, in a topological order: an action starts when its lane is free and all that it reads has
            # arrived.
            start = free[step.lane]
            for need, pair in step.needs:
                ready = finish[need] + transfer[pair] if pair >= 0 else finish[need]
                start = max(start, ready)
            end = start + seconds[step.kind][step.stage]
            free[step.lane] = end
            finish.append(end)
            if step.kind != FORWARD:
                ends[step.stage] = end
        return Timing(max(free), tuple(ends))

    # Beyond about as many microbatches as there are lanes the pipeline is full, and time grows evenly. Both numbers
    # are multiples of the lanes, so that the rounds of an interleaved schedule are complete.
    few, more = 4 * lanes, 6 * lanes
    if microbatches <= more:
        return simulated(microbatches)
    first, second = simulated(few), simulated(more)
    rest = (microbatches - more) / (more - few)

    def continued(one: float, other: float) -> float:
        return other + rest * (other - one)

    return Timing(continued(first.makespan, second.makespan), tuple(map(continued, first.ends, second.ends)))


def splits(schedule: str) -> bool:
    """Return whether a schedule splits its backward passes."""
    return splits_backward(programs_of(schedule, 1, 1, 1))


@lru_cache(maxsize=4096)
def kept(schedule: str, lanes: int, stages: int, microbatches: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return, by stage, how many microbatches wait for their backward pass, and for the gradients of weights alone.

    As in `timing`, many microbatches are not simulated: a schedule keeps no more of them, or one more for each.

    Example:
        >>> kept("gpipe", 4, 4, 1000), kept("zb_h1", 4, 4, 1000)
        (((1000, 1000, 1000, 1000), (0, 0, 0, 0)), ((4, 4, 4, 4), (0, 1, 2, 3)))
    """
    few, more = 2 * lanes, 3 * lanes

    def counted(number: int) -> list[tuple[int, ...]]:
        programs = programs_of(schedule, stages, number, lanes)
        return [in_flight(programs), deferred(programs)]

    if microbatches <= more:
        flying, waiting = counted(microbatches)
        return flying, waiting
    flying, waiting = (
        tuple(b + (b - a) // lanes * (microbatches - more) for a, b in zip(*pair, strict=True))
        for pair in zip(counted(few), counted(more), strict=True)
    )
    return flying, waiting
