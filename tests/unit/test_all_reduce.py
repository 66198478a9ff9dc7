"""What a replica gives to the all-reduce after its backward pass."""

from types import SimpleNamespace

import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.data.share import Share
from kparallel.engine.all_reduce import all_reduce_state, zeroed
from kparallel.engine.report import Report
from kparallel.engine.sparse_gradients import SlicedGradient

FULL, EMPTY = (Share(None, None, None, count, 5) for count in (2, 0))


def test_the_padding_row_of_an_empty_share_gives_nothing():
    bad = tf.constant([float("nan"), 1.0])
    assert zeroed(bad, FULL) is bad and zeroed(bad, EMPTY).numpy().tolist() == [0.0, 0.0]
    slices = SlicedGradient(rows=(tf.IndexedSlices(bad[:, None], tf.constant([3, 4]), tf.constant([9, 1])),))
    assert zeroed(slices, EMPTY).whole().values.numpy().ravel().tolist() == [0.0, 0.0]


def test_a_prediction_that_changes_no_state_sends_nothing():
    class Silent(SingleReplica):
        def all_reduce(self, values):
            raise AssertionError("No state has changed.")

    stage = SimpleNamespace(state=SimpleNamespace(changes=lambda *_: []))
    replica = SimpleNamespace(pipeline=SimpleNamespace(stages=(stage, stage)), communicators=(Silent(), Silent()))
    result = SimpleNamespace(rules=[SimpleNamespace(rules=())] * 2, start=[[], []], ends=[[], []], counts=(2,))
    report = Report.of(FULL, [], [], [])
    sums = all_reduce_state(replica, FULL, result, report)
    assert sums.states == [[], []] and sums.report is report
