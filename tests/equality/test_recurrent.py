"""Stateful recurrent layers, whose state belongs to the rows: each part of a batch takes and leaves its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.choice import some
from tests.equality.measure import use
from tests.equality.plans import PLANS
from tests.equality.tolerances import FLOAT64

L = keras.layers
ROWS = 5
RNG = np.random.default_rng(0)
# Four batches that go on from one another.
X, Y = RNG.normal(size=(4 * ROWS, 3, 2)), RNG.integers(0, 3, 4 * ROWS)


@pytest.fixture(autouse=True)
def _double():
    use("float64")


def stacked():
    inputs = keras.Input(batch_shape=(ROWS, 3, 2))
    hidden = L.LSTM(4, stateful=True, return_sequences=True)(inputs)
    hidden = L.GRU(3, stateful=True)(L.Dense(4, activation="tanh")(hidden))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


def bidirectional():
    inputs = keras.Input(batch_shape=(ROWS, 3, 2))
    hidden = L.Bidirectional(L.SimpleRNN(4, stateful=True))(inputs)
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


def cells():
    inputs = keras.Input((3, 2), batch_size=ROWS)
    hidden = L.RNN([L.LSTMCell(3), L.GRUCell(2)], stateful=True)(L.Masking()(inputs))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


class Reset(keras.callbacks.Callback):
    """Begins every second epoch with the state of zeros, as for a new sequence."""

    def on_epoch_begin(self, epoch, logs=None):
        for layer in self.model.layers:
            # Keras's own method fails for the nested states of several cells.
            if isinstance(layer, L.RNN) and not keras.tree.is_nested(layer.states[0]) and epoch % 2 == 0:
                layer.reset_states()


def made(build, plan=None):
    keras.utils.set_random_seed(0)
    model = kparallel.wrap(build(), **PLANS[plan]) if plan else build()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def results(model, **arguments):
    history = model.fit(
        X, Y, batch_size=ROWS, epochs=3, shuffle=False, verbose=0, callbacks=[Reset()], **arguments
    ).history
    predicted = model.predict(X, batch_size=ROWS, verbose=0)
    score = model.evaluate(X, Y, batch_size=ROWS, verbose=0)
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, L.RNN)]
    states = [state.numpy() for layer in layers for state in keras.tree.flatten(layer.states)]
    assert all(np.abs(state).max() > 0 for state in states)
    return [history["loss"], predicted, score, *states, *model.get_weights()]


@pytest.mark.parametrize(
    ("build", "plan"),
    [
        *some(
            [(stacked, plan) for plan in ("3x1", "2x1_microbatches", "1x2_1f1b", "2x2_gpipe_recompute")],
            (stacked, "2x1_microbatches"),
        ),
        pytest.param(bidirectional, "3x1", marks=pytest.mark.full),
        pytest.param(cells, "1x2_1f1b", marks=pytest.mark.full),
    ],
)
def test_state_is_carried_from_batch_to_batch(build, plan):
    got, want = results(made(build, plan)), results(made(build))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT64)


def test_every_copy_of_the_state_is_whole_and_equal():
    model = made(stacked, "3x1")
    results(model)
    for state in model.layers[1].states:
        copies = [copy.numpy() for copy in state.value.values]
        assert len(copies) == 3 and all(np.array_equal(copy, copies[0]) for copy in copies)


def test_a_batch_of_another_size_is_refused_as_in_keras():
    for model in (made(stacked), made(stacked, "2x1")):
        with pytest.raises(ValueError, match="batch size of the input sequences must be the same"):
            model.fit(X[:4], Y[:4], batch_size=4, verbose=0)


def test_shares_that_are_dealt_by_hand_are_refused():
    model = made(stacked, "2x1")
    data = model.distribute_strategy.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    )
    with pytest.raises(kparallel.errors.DataError, match="sees whole"):
        model.fit(data, verbose=0)
