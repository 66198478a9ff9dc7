"""Which slices of a lookup add up, as far as no graph is needed to find it out."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from kparallel.data.share import Share
from kparallel.engine.gather_kinds import Kinds
from kparallel.engine.sparse_gradients import MicrobatchSlices

PART = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([3, 3]), tf.constant([9, 1]))
RESULT = SimpleNamespace(gradients=[[MicrobatchSlices((PART, PART), (2, 2))]])


@pytest.mark.parametrize(("linear", "microbatches", "replicas"), [(True, 2, 2), (False, 1, 1)])
def test_slices_are_kept_as_they_are_where_any_slices_will_do(linear, microbatches, replicas):
    """An optimizer that scales and adds takes any; an undivided batch has those of one device."""
    sort = Kinds(None, [], microbatches, replicas).sorter(RESULT, Share(None, None, None, 4, 4), linear)
    found = sort(0, 0)
    assert found.shared == found.distinct == () and found.rows == (PART, PART)
