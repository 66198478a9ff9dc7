"""What a `fit` takes up again that goes on within an epoch."""

import keras
import numpy as np

from kparallel.resume.resumed_fit import set_at_epoch_begin


class Annealed(keras.layers.Layer):
    """Holds a number that a callback may change, a weight of which it takes none, and a table."""

    def __init__(self):
        super().__init__()
        self.factor = self.add_weight(shape=(), trainable=False, name="factor")
        self.table = self.add_weight(shape=(9,), trainable=False, name="table")
        self.scale = self.add_weight(shape=(), name="scale")

    def call(self, x):
        return x * self.factor * self.scale + self.table[0]


def test_rates_metrics_and_numbers_are_taken_up_again_and_no_weights():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), Annealed()])
    model.compile("adam", "mse", metrics=["mae"])
    model.train_on_batch(np.ones((2, 2)), np.ones((2, 1)))
    found = [variable.name for variable in set_at_epoch_begin(model)]
    assert "factor" in found and "learning_rate" in found and found.count("total") == found.count("count") == 2
    assert not {"table", "scale", "kernel"} & set(found)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert set_at_epoch_begin(plain) == []
