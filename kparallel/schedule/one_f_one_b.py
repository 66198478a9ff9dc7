"""1F1B: one forward, one backward, so that a stage keeps few microbatches."""

from kparallel.schedule.action import BACKWARD, FORWARD, Action, Program, Programs

__all__: list[str] = []


def one_f_one_b(stages: int, microbatches: int) -> Programs:
    """Alternate forward and backward once the pipeline is full.

    This is the default. It is as fast as `gpipe`, but stage s keeps the activations of at most `stages - s`
    microbatches, however many there are.

    Args:
        stages: Number of stages; lane s runs stage s.
        microbatches: Number of microbatches in a batch.

    Returns:
        One program per lane.

    Example:
        >>> [" ".join(map(str, program)) for program in one_f_one_b(2, 3)]
        ['0F0 0F1 0B0 0F2 0B1 0B2', '1F0 1B0 1F1 1B1 1F2 1B2']

    Source: PipeDream-Flush, Narayanan et al., https://arxiv.org/abs/2006.09503.
    """
    return tuple(_program(stage, min(stages - stage - 1, microbatches), microbatches) for stage in range(stages))


def _program(stage: int, warmup: int, microbatches: int) -> Program:
    # Three phases. Stage 0 of 3 with 4 microbatches has a warmup of 2, one for each stage after it:
    # warmup     steady               drain
    # F0 F1      F2 B0   F3 B1        B2 B3
    # At the end of the warmup the first microbatch has reached the stages behind; each backward pass then makes room
    # for one more forward pass.
    order = [Action(stage, FORWARD, index) for index in range(warmup)]
    for index in range(microbatches - warmup):
        order += [Action(stage, FORWARD, warmup + index), Action(stage, BACKWARD, index)]
    order += [Action(stage, BACKWARD, index) for index in range(microbatches - warmup, microbatches)]
    return tuple(order)
