"""Whatever breaks a law of schedules is refused, with a mark at the place."""

import pytest

from kparallel.errors import ScheduleError
from kparallel.schedule import (
    Action,
    check,
    one_f_one_b,
    zb_h1,
)


def read(*lanes):
    return tuple(tuple(map(Action.parse, lane.split())) for lane in lanes)


BROKEN = {
    "missing": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F1"),
        """
Action 1B1 is missing: expected every stage to run F and B on every microbatch.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F1
                    ^^^ <-- here""",
    ),
    "repeated": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F0 1F1 1B1"),
        """
Action 1F0 is repeated: expected every action once.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F0 1F1 1B1
                ^^^ <-- here""",
    ),
    "unknown": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F2 1B1"),
        """
Unknown action 1F2: expected stages 0 to 1, microbatches 0 to 1 and kinds F and B.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F2 1B1
                ^^^ <-- here""",
    ),
    "two lanes": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1", "1F1"),
        """
Action 1F1 is repeated: expected every action once.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F1 1B1
lane 2  1F1
        ^^^ <-- here""",
    ),
    "split stage": (
        read("0F0 0F1 0B0 1B1", "1F0 1B0 1F1 0B1"),
        """
Stage 1 is on lane 0 and on lane 1: expected one lane.
lane 0  0F0 0F1 0B0 1B1
lane 1  1F0 1B0 1F1 0B1
        ^^^ <-- here""",
    ),
    "too early on its own lane": (
        read("0F0 0F1 0B0 0B1", "1F0 1B1 1F1 1B0"),
        """
The order waits for itself: 1B1 on lane 1 waits for 1F1, which comes later on lane 1.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B1 1F1 1B0
            ^^^ <-- here""",
    ),
    "one backward pass that is not split": (
        read("0F0 0F1 0B0 0W0 0B1 0W1", "1F0 1B0 1W0 1F1 1B1"),
        """
Action 1W1 is missing: expected every stage to run F, B and W on every microbatch.
lane 0  0F0 0F1 0B0 0W0 0B1 0W1
lane 1  1F0 1B0 1W0 1F1 1B1
                            ^^^ <-- here""",
    ),
    "gradients of weights before those of inputs": (
        read("0F0 0F1 0B0 0W0 0B1 0W1", "1F0 1W0 1B0 1F1 1B1 1W1"),
        """
The order waits for itself: 1W0 on lane 1 waits for 1B0, which comes later on lane 1.
lane 0  0F0 0F1 0B0 0W0 0B1 0W1
lane 1  1F0 1W0 1B0 1F1 1B1 1W1
            ^^^ <-- here""",
    ),
    "deadlock between lanes": (
        read("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"),
        """
The order waits for itself: 0B0 on lane 0 waits for 1B0, which comes later on lane 1; \
1F1 on lane 1 waits for 0F1, which comes later on lane 0.
lane 0  0F0 0B0 0F1 0B1
            ^^^ <-- here
lane 1  1F0 1F1 1B0 1B1""",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_schedule_is_refused_with_a_mark(case):
    programs, text = BROKEN[case]
    with pytest.raises(ScheduleError) as error:
        check(programs, 2, 2)
    assert str(error.value) == text.strip("\n")


@pytest.mark.parametrize("schedule", [one_f_one_b, zb_h1])
def test_every_dropped_or_doubled_action_is_refused(schedule):
    good = schedule(3, 4)
    for lane, program in enumerate(good):
        for at in range(len(program)):
            for changed in (program[:at] + program[at + 1 :], (*program, program[at])):
                with pytest.raises(ScheduleError, match="<-- here"):
                    check((*good[:lane], changed, *good[lane + 1 :]), 3, 4)


def test_the_mark_stays_in_sight():
    programs = one_f_one_b(2, 40)
    broken = (programs[0][:60] + programs[0][61:], programs[1])
    with pytest.raises(ScheduleError, match="missing") as error:
        check(broken, 2, 40)
    assert "<-- here" in str(error.value)
    assert max(map(len, str(error.value).split("\n"))) <= 100
    with pytest.raises(ScheduleError) as error:
        check((programs[0][:40] + programs[0][:1] + programs[0][40:], programs[1]), 2, 40)
    lines = str(error.value).split("\n")
    mark = lines[2].index("^")
    assert lines[1][mark : mark + 3] == "0F0"
