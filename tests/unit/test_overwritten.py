"""Variables that are overwritten with their gradient get the largest value of all parts."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from kparallel.comm.communicator import SingleReplica
from kparallel.data.share import Share
from kparallel.engine.overwritten import overwritten
from kparallel.errors import ModelError

OTHER = [3.0, 1.0, 8.0]  # What another replica has of a scale and of a history of two.


class Pair(SingleReplica):
    def all_gather(self, values):
        return [[value, tf.constant(OTHER)] for value in values]


def run(count=2, known=True, is_single=False):
    scale, history = SimpleNamespace(path="dense/scale"), SimpleNamespace(path="dense/history")
    stage = SimpleNamespace(weights=[scale, history], float8={id(scale), id(history)} if known else set())
    replica = SimpleNamespace(
        pipeline=SimpleNamespace(stages=(stage,)),
        communicators=(Pair(),),
        devices=("CPU:0",),
        is_single=is_single,
        parts=1 if is_single else 2,
    )
    result = SimpleNamespace(overwritten=[{0: tf.constant(2.0), 1: tf.constant([4.0, 5.0])}])
    found = overwritten(replica, Share(None, None, None, count, 4), result)
    return [found[id(variable)].numpy().tolist() for variable in (scale, history)]


def test_the_largest_of_all_replicas_counts_entry_by_entry():
    assert run() == [3.0, [4.0, 8.0]]


def test_an_empty_share_is_never_the_largest():
    assert run(count=0) == [3.0, [1.0, 8.0]]


def test_a_single_replica_keeps_its_own():
    assert run(is_single=True) == [2.0, [4.0, 5.0]]


def test_a_variable_of_another_kind_is_refused_where_a_batch_is_divided():
    with pytest.raises(ModelError, match="received 'dense/scale' in a batch divided into 2"):
        run(known=False)
    assert run(known=False, is_single=True) == [2.0, [4.0, 5.0]]
