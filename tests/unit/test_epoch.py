"""What is known of the data of a call."""

import numpy as np

from kparallel.resume.epoch import EpochState


def test_each_call_has_a_digest_of_its_own():
    one, other = EpochState(), EpochState()
    one.digest.add((np.ones(3),))
    assert str(one.digest) != str(other.digest)


def test_nothing_is_known_at_first_and_data_can_be_resumed():
    state = EpochState()
    assert not state.unsized and not state.follows_data and state.only_epochs == ""
    assert state.order is state.progress is state.resumed is None
