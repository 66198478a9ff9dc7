"""ZB-V: two stages on each lane, there and back, with split backward passes: half of the bubble that ZB-H1 leaves."""

from collections.abc import Sequence
from functools import partial

from kparallel.schedule.action import BACKWARD, FORWARD, WEIGHT, Action, Programs, Schedule
from kparallel.schedule.dealt import dealt
from kparallel.schedule.zb_h1 import zb_h1

__all__: list[str] = []


def zb_v(lanes: int) -> Schedule:
    """Return the zero-bubble schedule whose stages go through the lanes and back, so that two on a lane form a V.

    ```text
    lane 0     stage 0 ─┐     ┌─► stage 3
    lane 1              └► 1 ► 2
    ```

    The last lane waits for the passes of stages that are half as long as those of `zb_h1`. If `F`, `B` and `W` take one
    unit of time each, D lanes with two stages each take about `6M + D - 1` for M microbatches, with M at least D; those
    of `zb_h1`, whose stages are twice as long, take `6M + 2(D - 1)`. The first and the last stage are on one lane, and
    every lane keeps as many activations as the first one of 1F1B: those of D microbatches. Twice as much travels.

    Args:
        lanes: The number of devices in a row, D.

    Returns:
        A schedule for numbers of stages that are multiples of `lanes`: more than two on a lane go on in turns. With as
        many stages as lanes it is `zb_h1`.

    Raises:
        ScheduleError: `lanes` is below 1. The schedule raises it too, if the stages are no multiple of `lanes`.

    Example:
        >>> for program in zb_v(2)(4, 2):
        ...     print(" ".join(map(str, program)))
        0F0 0F1 3F0 3B0 3F1 3B1 0B0 3W0 0B1 0W0 3W1 0W1
        1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1 2W0 1W0 2W1 1W1

    Source: Qi et al., Pipeline Parallelism with Controllable Memory, https://arxiv.org/abs/2405.15362. The order is not
    the pattern of the paper: each lane takes what is ready, as said in `_next`.
    """
    return dealt(lanes, zb_h1, partial(_programs, lanes=lanes), "zb_h1")


def there_and_back(stage: int, lanes: int) -> int:
    """Return the lane of a stage: 0, 1, 2, 2, 1, 0, 0, 1, ... for three lanes."""
    turn, position = divmod(stage, lanes)
    return lanes - 1 - position if turn % 2 else position


def _programs(stages: int, microbatches: int, lanes: int) -> Programs:
    """Let the lanes work in ticks of one action each."""
    own = [
        [stage for stage in reversed(range(stages)) if there_and_back(stage, lanes) == lane] for lane in range(lanes)
    ]
    programs: list[list[Action]] = [[] for _ in range(lanes)]
    # `ran[kind][stage]`: of how many microbatches, in their order.
    ran = {kind: [0] * stages for kind in (FORWARD, BACKWARD, WEIGHT)}
    most = stages  # Microbatches that the stages of a lane keep, added up.
    while min(ran[WEIGHT]) < microbatches:
        chosen = [_next(each, ran, microbatches, most) for each in own]
        if not any(chosen):
            most += 1  # So that it ends for all sizes.
        for program, action in zip(programs, chosen, strict=True):
            if action is not None:
                program.append(action)
                ran[action.kind][action.stage] += 1
    return tuple(map(tuple, programs))


def _next(own: Sequence[int], ran: dict[str, list[int]], microbatches: int, most: int) -> Action | None:
    """Return what a lane does next: what another stage waits for, and `W` where there is nothing else.

    Args:
        own: The stages of the lane, the last one first.
        ran: `[kind][stage]`: how many actions have run.
        microbatches: The number of microbatches.
        most: How many microbatches the stages of the lane may keep, added up.
    """
    forward, backward, weight = (ran[kind] for kind in (FORWARD, BACKWARD, WEIGHT))
    last = len(forward) - 1
    ready = [s for s in own if backward[s] < (forward[s] if s == last else min(forward[s], backward[s + 1]))]
    if ready:
        stage = min(ready, key=lambda s: backward[s])
        return Action(stage, BACKWARD, backward[stage])
    room = most - sum(forward[s] - weight[s] for s in own)
    for position, stage in enumerate(own):  # The stages after it on this lane need room too, or nothing would end.
        if room > position and forward[stage] < (forward[stage - 1] if stage else microbatches):
            return Action(stage, FORWARD, forward[stage])
    waiting = [s for s in own if weight[s] < backward[s]]
    if waiting:
        stage = min(waiting, key=lambda s: weight[s])
        return Action(stage, WEIGHT, weight[stage])
    return None
