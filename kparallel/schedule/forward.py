"""Forward passes only, for `evaluate` and `predict`."""

from kparallel.schedule.action import FORWARD, Action, Programs

__all__: list[str] = []


def forward_only(stages: int, microbatches: int) -> Programs:
    """Run every microbatch forward and nothing backward.

    Args:
        stages: Number of stages; lane s runs stage s.
        microbatches: Number of microbatches in a batch.

    Returns:
        One program per lane.

    Example:
        >>> [" ".join(map(str, program)) for program in forward_only(2, 2)]
        ['0F0 0F1', '1F0 1F1']
    """
    return tuple(tuple(Action(stage, FORWARD, index) for index in range(microbatches)) for stage in range(stages))
