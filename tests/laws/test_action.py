"""Actions and their printed form."""

import itertools

import pytest

from kparallel.errors import ScheduleError
from kparallel.schedule import (
    Action,
)


def test_actions_print_and_parse():
    for stage, kind, microbatch in itertools.product((0, 3, 12), "FBW", (0, 7, 31)):
        action = Action(stage, kind, microbatch)
        assert str(action) == f"{stage}{kind}{microbatch}"
        assert Action.parse(str(action)) == action
    for text in ("", "F0", "2X0", "2F", "2F0 ", "-1F0", "2f0"):
        with pytest.raises(ScheduleError, match="Expected an action such as '2F0'"):
            Action.parse(text)
    with pytest.raises(ScheduleError, match="received 0, 'X' and 0"):
        Action(0, "X", 0)
