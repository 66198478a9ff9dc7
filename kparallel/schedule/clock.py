"""Running programs on paper: a global order, and when each action starts and ends."""

from kparallel.errors import PlanError
from kparallel.schedule.action import Action, Programs

__all__: list[str] = []


def linear_order(programs: Programs) -> list[Action]:
    """Return all actions in one order that keeps every lane's order and every dependency.

    Raises:
        PlanError: The lanes wait for one another.

    Example:
        >>> from kparallel.schedule.gpipe import gpipe
        >>> [str(action) for action in linear_order(gpipe(2, 1))]
        ['0F0', '1F0', '1B0', '0B0']
    """
    stages = 1 + max((action.stage for program in programs for action in program), default=-1)
    waiting = [list(reversed(program)) for program in programs]
    done: set[Action] = set()
    order: list[Action] = []
    while any(waiting):
        ready = [lane for lane in waiting if lane and done.issuperset(lane[-1].needs(stages))]
        if not ready:
            heads = ", ".join(str(lane[-1]) for lane in waiting if lane)
            raise PlanError(f"Expected a schedule whose lanes do not wait for one another; stuck before {heads}.")
        for lane in ready:
            order.append(lane.pop())
            done.add(order[-1])
    return order
