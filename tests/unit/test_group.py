"""A process that trains alone is a group of one worker."""

import tensorflow as tf

from kparallel.comm.group import SingleWorker


def test_a_single_worker_is_the_chief_and_hears_itself():
    group = SingleWorker()
    assert group.is_single and group.is_chief and (group.workers, group.worker_index) == (1, 0)
    assert group.all_gather_text("words") == ["words"]
    assert [value.numpy() for value in group.broadcast([1, tf.constant(2.0)])] == [1, 2.0]
