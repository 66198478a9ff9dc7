"""The time of a step whose weights are brought to a replica's device for each action.

```text
device    | F0 | F1 | F2 |    B2    |    B1    |    B0    |
link    w0| w1 | w2 | w2 | w1       |g2 w0     |g1        |g0      w: weights are brought, g: gradients go to owners
```

The weights of an action travel while the action before it runs, and share the link with the gradients.
"""

from collections.abc import Sequence

__all__: list[str] = []

_SIMULATED = 3  # Microbatches. From the second one on, each takes as long as the one before it.


def waiting(microbatches: int, forward: Sequence[float], backward: Sequence[float], weights: Sequence[float]) -> float:
    """Return the seconds that weights and gradients on their way add to the passes of a step.

    Args:
        microbatches: The number of microbatches.
        forward: Seconds of a forward pass on one microbatch, by stage.
        backward: Seconds of a backward pass, by stage.
        weights: Seconds that the weights of a stage take from their owners; their gradients take as long to the owners.

    Example:
        >>> waiting(1, [1.0, 1.0], [2.0, 2.0], [0.5, 0.5])  # The first weights, and the last gradients.
        1.0
    """
    if microbatches <= _SIMULATED:
        return _simulated(microbatches, forward, backward, weights)
    most, fewer = (_simulated(number, forward, backward, weights) for number in (_SIMULATED, _SIMULATED - 1))
    return most + (microbatches - _SIMULATED) * (most - fewer)


def _simulated(
    microbatches: int, forward: Sequence[float], backward: Sequence[float], weights: Sequence[float]
) -> float:
    stages = len(weights)
    # Of one microbatch: its stage, and whether the pass is a backward pass.
    order = [(stage, False) for stage in range(stages)] + [(stage, True) for stage in reversed(range(stages))]
    order = microbatches * order
    # When the last action ended, when the next one's weights are there, and when the link is free.
    end, arrived, link = 0.0, weights[0], weights[0]
    for index, (stage, is_backward) in enumerate(order):
        start = max(end, arrived)
        end = start + (backward if is_backward else forward)[stage]
        if index + 1 < len(order):  # Asked for when this action starts, and so before its gradients.
            link = arrived = max(link, start) + weights[order[index + 1][0]]
        # Gradients are summed over the microbatches, and travel after the last one.
        if is_backward and index >= len(order) - 2 * stages:
            link = max(link, end) + weights[stage]
    return max(end, link) - microbatches * (sum(forward) + sum(backward))
