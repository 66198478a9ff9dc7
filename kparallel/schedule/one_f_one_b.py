"""1F1B (PipeDream-flush; Narayanan et al., 2021): backward starts as soon as it can."""

from kparallel.schedule.action import Action, Programs

__all__: list[str] = []


def one_f_one_b(stages: int, microbatches: int) -> Programs:
    """Return 1F1B's programs: as fast as GPipe, with at most `stages - s` microbatches alive on stage `s`.

    ```text
    stage 0   F0 F1 .. B0 F2 B1 .. B2
    stage 1   .. F0 B0 F1 B1 F2 B2 ..
    ```

    Args:
        stages: Number of stages, one for each lane.
        microbatches: Number of microbatches.

    Example:
        >>> [str(action) for action in one_f_one_b(2, 3)[0]]
        ['0F0', '0F1', '0B0', '0F2', '0B1', '0B2']
    """
    programs = []
    for s in range(stages):
        ahead = min(stages - 1 - s, microbatches)
        actions = [Action(s, "F", m) for m in range(ahead)]
        for m in range(ahead, microbatches):
            actions += [Action(s, "F", m), Action(s, "B", m - ahead)]
        actions += [Action(s, "B", m) for m in range(microbatches - ahead, microbatches)]
        programs.append(tuple(actions))
    return tuple(programs)
