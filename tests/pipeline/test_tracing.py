"""What is traced how often: a stage once for each shape and device, whatever the number of microbatches."""

import keras
import numpy as np
import pytest

import kparallel
from tests.choice import some


class Counted(keras.layers.Dense):
    """Tells the shape of what it is called with."""

    def __init__(self, *args, count, **kwargs):
        super().__init__(*args, **kwargs)
        self.count = count

    def call(self, x):
        self.count(tuple(x.shape))
        return super().call(x)


def calls_in_one_step(microbatches, rows, schedule):
    """Return the shapes with which one layer of the second stage is called while a step is traced."""
    shapes = []

    def build():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), Counted(3, count=shapes.append)])

    model = kparallel.wrap(build, replicas=1, stages=2, microbatches=microbatches, schedule=schedule, check="off")
    model.compile("sgd", "mse")
    x = np.zeros((rows, 3), "float32")
    model.fit(x, x, batch_size=rows, verbose=0)
    shapes.clear()  # Of Keras's symbolic build.
    model.make_train_function(force=True)
    model.fit(x, x, batch_size=rows, verbose=0)
    return shapes


@pytest.mark.parametrize("schedule", some(["gpipe", "1f1b"], "1f1b"))
def test_a_stage_is_traced_once_for_each_shape(schedule):
    # 1F1B counts its rows ahead, in one pass over the whole batch of which TensorFlow drops nearly all.
    ahead = [(24, 3)] if schedule == "1f1b" else []
    assert calls_in_one_step(2, 24, schedule) == [*ahead, (12, 3)]
    assert calls_in_one_step(12, 24, schedule) == [*ahead, (2, 3)]
    ahead = [(25, 3)] if schedule == "1f1b" else []
    assert sorted(calls_in_one_step(8, 25, schedule)) == sorted([*ahead, (3, 3), (4, 3)])
