"""The forward pass alone, for `evaluate` and `predict`."""

from kparallel.schedule.action import Action, Programs

__all__: list[str] = []


def forward_only(stages: int, microbatches: int) -> Programs:
    """Return programs that run every microbatch forward through every stage.

    Example:
        >>> [str(action) for action in forward_only(2, 2)[1]]
        ['1F0', '1F1']
    """
    return tuple(tuple(Action(s, "F", m) for m in range(microbatches)) for s in range(stages))
