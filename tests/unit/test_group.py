"""What workers tell one another outside of steps; a process that trains alone is a group of one worker."""

import json

import pytest
import tensorflow as tf

from kparallel.comm.group import SingleWorker
from kparallel.errors import WorkerError


class Other(SingleWorker):
    """Worker 0 of two; what the other one does and says is known."""

    def __init__(self, doing, value):
        super().__init__()
        self._answer = json.dumps([doing, value])

    def all_gather_text(self, text):
        return [text, self._answer]


def test_values_are_exchanged_by_workers_that_do_the_same():
    assert Other("counts", {"rows": 3}).exchange("counts", [None, "a"]) == [[None, "a"], {"rows": 3}]
    with pytest.raises(WorkerError, match="do the same, received: worker 0 counts; worker 1 wraps a model. They have"):
        Other("wraps a model", True).exchange("counts", True)


def test_a_single_worker_is_the_chief_and_hears_itself():
    group = SingleWorker()
    assert group.is_single and group.is_chief and (group.workers, group.worker_index) == (1, 0)
    assert group.all_gather_text("words") == ["words"]
    assert [value.numpy() for value in group.broadcast([1, tf.constant(2.0)])] == [1, 2.0]
