"""A script of one program over two machines whose server, or which itself, fails at some moment.

Its arguments are a folder, what happens, and when. Where it ends undisturbed it leaves its numbers in the folder.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import kparallel
from tests.cluster.one_program import other_process

FOLDER, FATE, MOMENT = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
X = np.random.default_rng(0).normal(size=(40, 4))


def strike(moment):
    """Do what is to happen, if this is the moment, and it is the first start of this script."""
    if moment == "step" and MOMENT == "ever":
        (FOLDER / "trains").touch()
    if moment != MOMENT or os.environ["KPARALLEL_RESTARTS"] != "0":
        return
    with contextlib.suppress(AssertionError):  # Where each host has a launcher of its own, the server is another's.
        (FOLDER / "server").write_text(str(other_process()))
    if FATE == "killed":
        os.kill(other_process(), signal.SIGKILL)
    elif FATE == "frozen":
        os.kill(other_process(), signal.SIGSTOP)
    elif FATE == "asked":
        os.kill(other_process(), signal.SIGTERM)
    elif FATE == "itself killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FATE == "itself fails":
        raise ValueError("of the script's own")
    elif FATE == "itself ends":
        sys.exit(7)


class Dense(keras.layers.Dense):
    def call(self, inputs, training=False):
        if training:
            strike("tracing")
        return super().call(inputs)


class Moments(keras.callbacks.Callback):
    epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 3):
            strike("step")

    def on_test_batch_begin(self, batch, logs=None):
        strike("evaluate")

    def on_epoch_end(self, epoch, logs=None):
        strike("saving")
        self.model.save(FOLDER / "model.keras")


def main():
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(1)
    layers = [Dense(8, activation="tanh"), keras.layers.Dropout(0.5, seed=2), keras.layers.Dense(1)]
    model = kparallel.wrap(keras.Sequential([keras.Input((4,)), *layers]), stages=2, microbatches=2)
    model.compile("adam", "mse")
    checkpoint = kparallel.callbacks.Checkpoint(FOLDER / "checkpoints", every_steps=2)
    history = model.fit(
        X,
        X[:, :1],
        batch_size=8,
        epochs=10_000 if MOMENT == "ever" else 3,
        verbose=0,
        validation_data=(X, X[:, :1]),
        callbacks=[checkpoint, Moments()],
    ).history
    state = [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables), history["val_loss"]]
    np.savez(FOLDER / "end.npz", *state)


if __name__ == "__main__":
    main()
