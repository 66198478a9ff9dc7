"""GPipe: all forward passes, then all backward passes."""

from kparallel.schedule.action import BACKWARD, FORWARD, Action, Programs

__all__: list[str] = []


def gpipe(stages: int, microbatches: int) -> Programs:
    """Run every microbatch forward, then every microbatch backward.

    This is the simplest schedule. Every stage keeps the activations of all microbatches. Prefer `one_f_one_b`, which is
    as fast and keeps fewer.

    Args:
        stages: Number of stages; lane s runs stage s.
        microbatches: Number of microbatches in a batch.

    Returns:
        One program per lane.

    Example:
        >>> [" ".join(map(str, program)) for program in gpipe(2, 2)]
        ['0F0 0F1 0B0 0B1', '1F0 1F1 1B0 1B1']

    Source: Huang et al., GPipe, https://arxiv.org/abs/1811.06965. Microbatches run backward in the
    same order as forward: so the last stage sends its first cotangents a little earlier.
    """
    return tuple(
        tuple(Action(stage, kind, index) for kind in (FORWARD, BACKWARD) for index in range(microbatches))
        for stage in range(stages)
    )
