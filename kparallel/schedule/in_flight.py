"""The number of microbatches whose activations a stage keeps: the memory cost of a schedule."""

from kparallel.schedule.action import BACKWARD, FORWARD, WEIGHT, Action, Programs, splits_backward

__all__: list[str] = []


def in_flight(programs: Programs) -> tuple[int, ...]:
    """Return, per stage, the largest number of microbatches that have run forward and wait for their backward pass.

    Multiplied by the bytes of activations of one microbatch it gives the memory for activations. Where backward passes
    are split, a microbatch waits for the gradients of its weights, which are computed from its activations too.

    Args:
        programs: One program per lane.

    Returns:
        The peak of each stage; 0 without backward passes, since nothing is kept then.

    Example:
        >>> from kparallel.schedule.gpipe import gpipe
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> in_flight(gpipe(4, 8)), in_flight(one_f_one_b(4, 8))
        ((8, 8, 8, 8), (4, 3, 2, 1))
    """
    end = WEIGHT if splits_backward(programs) else BACKWARD
    kept = [0] * _stages(programs)
    peak = list(kept)
    # A forward pass without a backward pass, as in `evaluate`, keeps nothing.
    ended = {(action.stage, action.microbatch) for p in programs for action in p if action.kind == end}
    # All actions of a stage are on one lane, in the order of this lane's program. So each program can be counted
    # alone, without a clock.
    for program in programs:
        for action in program:
            if action.kind in (FORWARD, end) and (action.stage, action.microbatch) in ended:
                kept[action.stage] += 1 if action.kind == FORWARD else -1
                peak[action.stage] = max(peak[action.stage], kept[action.stage])
    return tuple(peak)


def deferred(programs: Programs) -> tuple[int, ...]:
    """Return, per stage, the largest number of microbatches that wait for the gradients of their weights alone.

    Between its `B` and its `W` a stage keeps, beside the activations of a microbatch, the gradients that `B` has
    computed of them. A `W` that follows its `B` at once defers nothing: an unsplit backward pass has these gradients
    too.

    Args:
        programs: One program per lane.

    Returns:
        The peak of each stage; 0 where backward passes are not split.

    Example:
        >>> from kparallel.schedule.one_f_one_b import one_f_one_b
        >>> from kparallel.schedule.zb_h1 import zb_h1
        >>> deferred(one_f_one_b(4, 8)), deferred(zb_h1(4, 8))
        ((0, 0, 0, 0), (0, 1, 2, 3))
    """
    waiting: list[set[int]] = [set() for _ in range(_stages(programs))]
    peak = [0] * len(waiting)
    if not splits_backward(programs):
        return tuple(peak)
    for program in programs:
        previous: Action | None = None
        for action in program:
            own = waiting[action.stage]
            if action.kind == WEIGHT:
                own.discard(action.microbatch)
            if previous is not None:  # By now it is known whether the action before it was followed by its own `W`.
                peak[previous.stage] = max(peak[previous.stage], len(waiting[previous.stage]))
            if action.kind == BACKWARD:
                own.add(action.microbatch)
            previous = action
    return tuple(peak)


def _stages(programs: Programs) -> int:
    return 1 + max((action.stage for program in programs for action in program), default=-1)
