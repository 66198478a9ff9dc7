"""What a schedule and a policy of recomputation say of the passes of a step."""

from collections.abc import Callable, Sequence

from kparallel.schedule.action import Action

__all__: list[str] = []


def tape_keeper(recompute: str, number: int) -> Callable[[int, int], bool]:
    """Return what tells whether (stage, microbatch) keeps its tape, of a number of microbatches."""
    if recompute == "never":
        return lambda s, m: True
    return lambda s, m: recompute == "except_last" and m == number - 1


def all_forward_first(order: Sequence[Action], last: int, number: int) -> bool:
    """Tell whether the last stage has run forward on every microbatch before it first runs backward."""
    kinds = [action.kind for action in order if action.stage == last and action.microbatch < number]
    return kinds.index("B") == number
