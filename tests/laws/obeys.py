"""A reading of the laws of schedules that does not use `kparallel.schedule.validate`."""

import itertools

from kparallel.schedule import (
    Action,
    linear_order,
)

SIZES = list(itertools.product(range(1, 9), range(1, 33)))


def obeys(programs, stages, microbatches, backward=True):
    """Say by a reading of its own, not by `check`, whether every action occurs once and after what it reads."""
    order = linear_order(programs)
    kinds = "F" + "B" * backward + "W" * any(action.kind == "W" for action in order)
    assert len(order) == stages * microbatches * len(kinds)
    assert set(order) == {Action(s, k, m) for s in range(stages) for k in kinds for m in range(microbatches)}
    at = {(action.stage, action.kind, action.microbatch): index for index, action in enumerate(order)}
    for stage, kind, microbatch in at:
        if kind == "F" and stage:
            assert at[stage - 1, "F", microbatch] < at[stage, "F", microbatch]
        if kind == "W":
            assert at[stage, "B", microbatch] < at[stage, "W", microbatch]
        if kind == "B":
            assert at[stage, "F", microbatch] < at[stage, "B", microbatch]
            if stage + 1 < stages:
                assert at[stage + 1, "B", microbatch] < at[stage, "B", microbatch]
    for program in programs:
        own = set(program)
        assert [action for action in order if action in own] == list(program)
