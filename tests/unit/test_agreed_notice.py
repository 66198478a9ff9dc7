"""Workers leave after the same step, whichever of them was told."""

import pytest

from kparallel.comm.group import SingleWorker
from kparallel.resume.notice import RESIZE, SIGTERM
from kparallel.workers.agreed_notice import AgreedNotice


class Others(SingleWorker):
    """Worker 1 of two; worker 0 has a reason, and proposes after how many steps to ask again."""

    def __init__(self, reason, steps=3):
        super().__init__()
        self._reason, self._steps, self.asked = reason, steps, 0

    def exchange(self, doing, value):
        self.asked += 1
        return [[self._reason, self._steps] if isinstance(value, list) else self._reason, value]


def test_a_question_is_asked_after_as_many_steps_as_the_chief_says():
    group = Others("")
    notice = AgreedNotice(group)
    asked = []
    for _ in range(7):
        assert notice.reason_at_step() == ""
        asked.append(group.asked)
    assert asked == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("reason", [SIGTERM, RESIZE])
def test_what_another_worker_was_told_counts_here(reason):
    assert AgreedNotice(Others(reason)).reason_at_step() == reason
    assert AgreedNotice(Others(reason)).reason_at_epoch() == reason
