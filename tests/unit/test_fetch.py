"""Workers that read batches tell one another of them, where one could wait for another."""

from types import SimpleNamespace

import numpy as np
import pytest

from kparallel.comm.group import SingleWorker
from kparallel.errors import DataError
from kparallel.resume.epoch import EpochState
from kparallel.workers.fetch import Fetch, agree_on_end

BATCH = (np.ones((2, 1)), np.ones(2))


class Pair(SingleWorker):
    """Worker 0 of two; what the other one says is the first of what is left."""

    def __init__(self, *answers):
        super().__init__()
        self.workers, self.answers = 2, list(answers)

    def exchange(self, doing, value):
        answer = self.answers.pop(0)
        return [value, value if answer is None else answer]


def fetch(group, unsized=False):
    return Fetch(SimpleNamespace(group=group), None, EpochState(unsized=unsized))


def test_a_known_number_of_batches_is_compared_once_in_a_pass():
    group = Pair(None)
    read, batches = fetch(group), iter([BATCH, BATCH])
    assert read(batches) is BATCH and read(batches) is BATCH and read(batches) is None
    assert not group.answers


def test_an_unknown_number_is_compared_at_each_batch():
    group = Pair(None, None, None)
    read, batches = fetch(group, unsized=True), iter([BATCH, BATCH])
    assert [read(batches) is BATCH for _ in range(3)] == [True, True, False]
    assert not group.answers


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (["end", "00000000"], "received in one step: worker 0: another batch, worker 1: no more batches"),
        (["failed", "OSError: gone"], "Reading data failed on worker 1: OSError: gone"),
        (["whole", "0000002a"], "all workers to read the same batches"),
    ],
)
def test_another_worker_that_reads_something_else_is_named(answer, told):
    with pytest.raises(DataError, match=told):
        fetch(Pair(answer))(iter([BATCH]))


def test_workers_that_predict_have_as_many_batches():
    agree_on_end(SimpleNamespace(group=Pair(None)), 3)
    with pytest.raises(DataError, match="worker 0: 3 more batches, worker 1: no more batches"):
        agree_on_end(SimpleNamespace(group=Pair("end")), 3)
