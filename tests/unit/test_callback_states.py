"""What callbacks have counted, by which those of another process go on."""

import json

import keras
import ml_dtypes
import numpy as np
import pytest

from kparallel.errors import CheckpointError
from kparallel.resume.callback_states import callback_states, kept_weights, restore_callbacks

C = keras.callbacks


class Own(C.Callback):
    """Says what it has counted."""

    count = 0

    def get_state(self):
        return self.count

    def set_state(self, state):
        self.count = state


def callbacks():
    """Two that watch the same, two that watch nothing, and one that counts nothing."""
    watching = [C.EarlyStopping("loss"), C.EarlyStopping("loss"), C.EarlyStopping("mae")]
    return [*watching, Own(), C.SwapEMAWeights(), C.TerminateOnNaN()]


def test_each_callback_goes_on_from_its_own_counts():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="bfloat16")])
    before, after = callbacks(), callbacks()
    before[1].wait, before[1].best, before[1].best_weights = 2, np.float64(0.5), model.get_weights()
    before[3].count, before[4]._ema_weights_in_model = 7, True
    counts, weights = callback_states(before)
    # NumPy's files give back bytes in place of a dtype that they do not know.
    weights = [weight.view("V2") for weight in weights]
    restore_callbacks(after, model, json.loads(json.dumps(counts)), weights)
    assert kept_weights(counts) == len(after[1].best_weights) == 2
    assert after[1].best_weights[0].dtype == ml_dtypes.bfloat16
    assert [each.wait for each in after[:3]] == [0, 2, 0] and after[1].best == 0.5 and after[0].best is None
    assert after[3].count == 7 and after[4]._ema_weights_in_model


def test_callbacks_that_are_not_here_any_more_are_passed_over():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    before = callbacks()
    for each in before[:2]:
        each.best_weights = [np.full(weight.shape, before.index(each)) for weight in model.weights]
    after = [C.EarlyStopping("mae"), C.EarlyStopping("loss")]
    restore_callbacks(after, model, *callback_states(before))
    assert after[0].best_weights is None and not after[1].best_weights[0].any()


def test_a_callbacks_own_state_is_copied_and_has_to_fit_into_json():
    own = Own()
    own.count = [1]
    counts, _ = callback_states([own])
    own.count.append(2)  # Training goes on while a checkpoint is written.
    assert [state["own"] for state in counts.values()] == [[1]]
    own.count = {1, 2}
    with pytest.raises(CheckpointError, match=r"Expected Own.get_state to return what JSON can hold, received \{1"):
        callback_states([own])
