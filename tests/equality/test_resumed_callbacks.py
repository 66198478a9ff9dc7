"""A run that goes on from a checkpoint beside other callbacks ends as one that nothing disturbed."""

import keras
import pytest
import tensorflow as tf

import kparallel
from kparallel.callbacks import Checkpoint
from tests.choice import some
from tests.equality.test_checkpoint import (
    Batches,
    Interrupt,
    Interrupted,
    X,
    Y,
    as_of_another_process,
    assert_same,
    settled,
    start,
)

C = keras.callbacks
UNLIKE = (X[:6], -Y[:6])  # The loss of these rows grows while training goes on, so that callbacks act on it.


class Counting(C.Callback):
    """Counts as a user's own callback may, and does something after the third epoch."""

    epochs = 0

    def get_state(self):
        return {"epochs": self.epochs}

    def set_state(self, state):
        self.epochs = state["epochs"]

    def on_train_begin(self, logs=None):
        self.epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        if self.epochs == 3:
            self.model.optimizer.iterations.assign_add(100)


# The callbacks, and what else `fit` is given.
CALLBACKS = {
    "several": (
        lambda: [
            C.EarlyStopping(patience=3, restore_best_weights=True),
            C.ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=10),
            C.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            Counting(),
        ],
        {"epochs": 9, "validation_data": UNLIKE},
    ),
    "averages": (lambda: [C.SwapEMAWeights(swap_on_epoch=True)], {"epochs": 5}),
    "a warmup": (lambda: [kparallel.callbacks.Warmup(scale=4, steps=20)], {"epochs": 5}),
}


def compiled():
    model = start(rate=0)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9), "mse")
    return model


def fit(model, *callbacks, **options):
    return model.fit(X, Y, batch_size=4, verbose=0, callbacks=list(callbacks), **options).history


@pytest.mark.parametrize("name", some(CALLBACKS, "several"))
def test_callbacks_go_on_from_what_they_had_counted(tmp_path, name):
    """A checkpoint comes last wherever it stands: here it is first. Killed within an epoch, and between two."""
    callbacks, options = CALLBACKS[name]
    want = compiled()
    wanted = fit(want, *callbacks(), **options)
    assert 4 < len(wanted["loss"]) < 9
    for at in [(1, 3), (2, 0)]:
        with pytest.raises(Interrupted):
            fit(compiled(), Checkpoint(tmp_path, every_steps=2), Interrupt(*at), *callbacks(), **options)
        settled()
    model = compiled()
    assert_same((model, fit(model, Checkpoint(tmp_path, every_steps=2), *callbacks(), **options)), (want, wanted))
    as_of_another_process(tmp_path)
    again = compiled()  # What a callback does at the end of a training that is over, it does again.
    assert_same((again, fit(again, Checkpoint(tmp_path), *callbacks(), **options)), (want, wanted))


@pytest.mark.full
def test_a_backup_goes_on_with_what_callbacks_had_counted(tmp_path):
    callbacks, options = CALLBACKS["several"]
    want = compiled()
    wanted = fit(want, *callbacks(), **options)
    with pytest.raises(Interrupted):
        fit(compiled(), C.BackupAndRestore(tmp_path), Interrupt(3, 2), *callbacks(), **options)
    model = compiled()
    history = fit(model, C.BackupAndRestore(tmp_path), *callbacks(), **options)
    assert_same((model, history), (want, {name: values[3:] for name, values in wanted.items()}))


class Noisy(keras.Model):
    """Draws from Keras's default generator in a step of its own."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(1)

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) + keras.random.normal((1,), dtype="float64") - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss, "worst": tf.reduce_max(loss)}  # Which no metric holds.


class InterruptBehindSteps(C.Callback):
    """Ends training behind the last step of an epoch: in its validation, for example."""

    def on_train_batch_end(self, batch, logs=None):
        settled()  # So that the checkpoint of the last step is written.

    def on_epoch_end(self, epoch, logs=None):
        raise Interrupted


@pytest.mark.parametrize("replicas", some([1, 2], 2))
def test_a_step_that_draws_from_the_default_generator_goes_on_in_its_sequence(tmp_path, replicas):
    def noisy():
        keras.backend.clear_session()
        start()
        model = kparallel.wrap(Noisy(), replicas=replicas)
        model.compile("sgd")
        return model

    def trained(model, *callbacks):
        return model, model.fit(Batches(), epochs=3, verbose=0, callbacks=list(callbacks)).history

    with pytest.raises(Interrupted):
        trained(noisy(), Checkpoint(tmp_path / "run", every_steps=1), Interrupt(1, 3))
    settled()
    with pytest.raises(Interrupted):
        trained(noisy(), InterruptBehindSteps(), Checkpoint(tmp_path / "run", every_steps=1))
    settled()
    undisturbed = trained(noisy(), Checkpoint(tmp_path / "other"))
    assert_same(trained(noisy(), Checkpoint(tmp_path / "run")), undisturbed)
