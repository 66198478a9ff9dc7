"""Steps of one's own whose training fails, and goes on from a checkpoint in a model that is made anew."""

import keras
import pytest
import tensorflow as tf

import kparallel
from tests.equality.measure import use
from tests.ownstep.measure import train
from tests.ownstep.programs import PROGRAMS, Guide, Program, mlp, regressed
from tests.pairs import seeded


class Sized(Guide):
    """Insists on a known number of rows, so that nothing is built before the first batch."""

    def train_step(self, data):
        assert int(data[0].shape[0]) > 0
        return super().train_step(data)


def sized():
    model = Sized(mlp(8, 1))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def of_one_size():
    data = regressed()
    return {"x": tf.data.Dataset.from_tensor_slices((data["x"], data["y"])).batch(5, drop_remainder=True)}


# By name: the program, and the options of `wrap`.
RESUMED = {
    "resumed": (PROGRAMS["adversaries"], {}),
    "resumed_sized": (Program(sized, of_one_size), {}),
    "resumed_shards": (PROGRAMS["adversaries"], {"shard": "optimizer"}),
    "resumed_weights": (PROGRAMS["adversaries"], {"shard": "weights"}),
}


class Failing(keras.callbacks.Callback):
    """Fails on every worker after a step of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1):
            raise ArithmeticError("It fails.")


def trained_in_two_starts(name, cluster, folder):
    """Return what a program came to: on one device undisturbed, in a cluster after a failure in the second epoch."""
    program, options = RESUMED[name]
    use("float64")
    if cluster is None:
        return train(seeded(program.model), program.data())
    first, second = (kparallel.wrap(seeded(program.model), **options) for _ in range(2))
    checkpoints = [kparallel.callbacks.Checkpoint(folder / name, every_steps=2) for _ in range(2)]
    with pytest.raises(ArithmeticError):
        train(first, program.data(), callbacks=[checkpoints[0], Failing()])
    return train(second, program.data(), callbacks=[checkpoints[1]])
