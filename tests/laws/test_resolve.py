"""Programs for a name or a function, on given lanes."""

import pytest

from kparallel.errors import PlanError, ScheduleError
from kparallel.schedule import (
    fold,
    gpipe,
    interleaved,
    one_f_one_b,
    programs_for,
)


def test_programs_for():
    assert programs_for("1f1b", 4, 8) == one_f_one_b(4, 8)
    assert programs_for("interleaved", 4, 8, (0, 1, 0, 1)) == interleaved(2)(4, 8)
    assert programs_for("1f1b", 2, 8, (0, 0)) == fold(one_f_one_b(2, 8), (0, 0))
    with pytest.raises(PlanError, match="in turn"):
        programs_for("interleaved", 4, 8, (0, 0, 1, 1))


def test_a_schedule_of_the_users_own():
    def own(stages, microbatches):
        return [[f"{s}{k}{m}" for k in "FB" for m in range(microbatches)] for s in range(stages)]

    assert programs_for(own, 3, 2) == gpipe(3, 2)
    assert programs_for(lambda s, m: own(s, m)[::-1], 2, 2) == gpipe(2, 2)
    assert programs_for(own, 2, 2, (0, 0)) == fold(gpipe(2, 2), (0, 0))
    for bad, text in [
        (lambda s, m: "0F0", "received '0F0'"),
        (lambda s, m: ["0F0"], "received the lane '0F0'"),
        (lambda s, m: [[3]], "received the action 3"),
        (lambda s, m: [["0X0"]], "received '0X0'"),
        (lambda s, m: [], "Action 0F0 is missing"),
    ]:
        with pytest.raises(ScheduleError, match=text):
            programs_for(bad, 2, 2)
    with pytest.raises(ScheduleError, match=r"received 2 programs with the stages on the lanes \(0, 1, 0, 1\)"):
        programs_for(interleaved(2), 4, 4, (0, 0, 1, 1))
