"""Interleaved 1F1B: several stages on each lane, for a smaller bubble."""

from kparallel.schedule.action import BACKWARD, FORWARD, Action, Program, Programs, Schedule
from kparallel.schedule.dealt import dealt
from kparallel.schedule.one_f_one_b import one_f_one_b

__all__: list[str] = []


def interleaved(lanes: int) -> Schedule:
    """Return the 1F1B schedule in which lane d of D runs the stages d, d + D, d + 2D, ...

    With v stages per lane the bubble is v times smaller; v times as much travels between stages, and more activations
    are in flight. A batch of M microbatches, a multiple of D, takes `(M v + D - 1)(f + b)`, where f and b are the times
    of one stage's passes.

    Args:
        lanes: The number of devices in a row, D.

    Returns:
        A schedule for numbers of stages that are multiples of `lanes`. With as many stages as lanes it is
        `one_f_one_b`.

    Raises:
        ScheduleError: `lanes` is below 1. The schedule raises it too, if the stages are no multiple of `lanes`.

    Example:
        >>> [" ".join(map(str, program)) for program in interleaved(2)(4, 2)]
        ['0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1', '1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1']

    Source: Narayanan et al., https://arxiv.org/abs/2104.04473 (Megatron-LM). If `lanes` does not divide the
    number of microbatches, the first group of microbatches is the smaller one, which takes less time than a smaller
    last one. The time is then longer than the formula's, but never longer than that of `one_f_one_b` with v stages
    joined into one.
    """

    def several(stages: int, microbatches: int) -> Programs:
        return tuple(_program(lane, lanes, stages // lanes, microbatches) for lane in range(lanes))

    return dealt(lanes, one_f_one_b, several, "1f1b")


def _program(lane: int, lanes: int, per_lane: int, microbatches: int) -> Program:
    """Return the program of one lane: groups of `lanes` microbatches pass through all stages of the lane in turn."""
    # A slot is (position among the lane's stages, microbatch). An incomplete first group has slots with a negative
    # microbatch, which are dropped at the end.
    # For 2 lanes, 2 stages on each and 4 microbatches, the slots of a lane are, from left to right:
    # k              0  1   2  3   4  5   6  7
    # position       0  0   1  1   0  0   1  1     which of the lane's stages: position * lanes + lane
    # microbatch     0  1   0  1   2  3   2  3
    # Backward the lane goes through the same slots, with the positions from the last to the first.
    missing = -microbatches % lanes
    slots = [
        (k // lanes % per_lane, k // (lanes * per_lane) * lanes + k % lanes - missing)
        for k in range((microbatches + missing) * per_lane)
    ]
    forward = [Action(position * lanes + lane, FORWARD, index) if index >= 0 else None for position, index in slots]
    backward = [
        Action((per_lane - 1 - position) * lanes + lane, BACKWARD, index) if index >= 0 else None
        for position, index in slots
    ]
    # The lane runs forward until its first microbatch can come back from the last stage.
    warmup = min(len(slots), 2 * (lanes - lane - 1) + (per_lane - 1) * lanes)
    # Then one forward and one backward alternate, so that the number of microbatches in flight stays what it is.
    order = forward[:warmup]
    for pair in zip(forward[warmup:], backward, strict=False):
        order += pair
    order += backward[len(slots) - warmup :]
    return tuple(action for action in order if action is not None)
