"""GPipe (Huang et al., 2019): all microbatches forward, then all backward."""

from kparallel.schedule.action import Action, Programs

__all__: list[str] = []


def gpipe(stages: int, microbatches: int) -> Programs:
    """Return GPipe's programs: simple, but every microbatch's activations live until the backward pass.

    ```text
    stage 0   F0 F1 F2 .. .. B0 B1 B2
    stage 1   .. F0 F1 F2 B0 B1 B2 ..
    ```

    Args:
        stages: Number of stages, one for each lane.
        microbatches: Number of microbatches.

    Example:
        >>> [str(action) for action in gpipe(2, 2)[1]]
        ['1F0', '1F1', '1B0', '1B1']
    """
    return tuple(tuple(Action(s, kind, m) for kind in "FB" for m in range(microbatches)) for s in range(stages))
