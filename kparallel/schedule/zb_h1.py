"""ZB-H1: the 1F1B schedule with split backward passes, whose weight gradients fill two thirds of the bubble."""

from kparallel.schedule.action import BACKWARD, FORWARD, WEIGHT, Action, Program, Programs

__all__: list[str] = []


def zb_h1(stages: int, microbatches: int) -> Programs:
    """Order forward and backward passes as 1F1B does, and delay the gradients of the weights.

    An earlier stage waits for the gradients of inputs alone, so a backward pass takes half as long on its way through
    the pipeline. If `F`, `B` and `W` take one unit of time each, K stages and M microbatches take `3M + K - 1` (1F1B:
    `3M + 3(K - 1)`), and `2M + 2K - 1` for M < K: the last stage's passes lie between one way in and one way out.

    Stage s delays each `W` by s backward passes. So every stage keeps at most K microbatches until their `W`, as many
    as the first stage of 1F1B. The sum over all stages is larger: 16 against 10 for K = 4.

    Args:
        stages: Number of stages; lane s runs stage s.
        microbatches: Number of microbatches in a batch.

    Returns:
        One program per lane.

    Example:
        >>> [" ".join(map(str, program)) for program in zb_h1(2, 3)]
        ['0F0 0F1 0B0 0W0 0F2 0B1 0W1 0B2 0W2', '1F0 1B0 1F1 1B1 1W0 1F2 1B2 1W1 1W2']

    Source: Qi et al., Zero Bubble Pipeline Parallelism, https://arxiv.org/abs/2401.10241.
    """
    return tuple(_program(stage, min(stages - stage - 1, microbatches), microbatches) for stage in range(stages))


def _program(stage: int, warmup: int, microbatches: int) -> Program:
    order = [Action(stage, FORWARD, index) for index in range(warmup)]
    for index in range(microbatches):
        if warmup + index < microbatches:
            order.append(Action(stage, FORWARD, warmup + index))
        order.append(Action(stage, BACKWARD, index))
        if index >= stage:  # By then the earlier stages have all that they wait for.
            order.append(Action(stage, WEIGHT, index - stage))
    order += [Action(stage, WEIGHT, index) for index in range(max(0, microbatches - stage), microbatches)]
    return tuple(order)
