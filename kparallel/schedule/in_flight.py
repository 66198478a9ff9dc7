"""The number of microbatches whose activations a stage keeps: the memory cost of a schedule."""

from kparallel.schedule.action import FORWARD, Programs

__all__: list[str] = []


def in_flight(programs: Programs) -> tuple[int, ...]:
    """Return, per stage, the largest number of microbatches that have run forward and wait for their backward pass.

    Multiplied by the bytes of activations of one microbatch it gives the memory for activations.

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
    stages = 1 + max((action.stage for program in programs for action in program), default=-1)
    kept = [0] * stages
    peak = [0] * stages
    # A forward pass without a backward pass, as in `evaluate`, keeps nothing.
    backward = {(action.stage, action.microbatch) for p in programs for action in p if action.kind != FORWARD}
    # All actions of a stage are on one lane, in the order of this lane's program. So each program can be counted
    # alone, without a clock.
    for program in programs:
        for action in program:
            if (action.stage, action.microbatch) in backward:
                kept[action.stage] += 1 if action.kind == FORWARD else -1
                peak[action.stage] = max(peak[action.stage], kept[action.stage])
    return tuple(peak)
