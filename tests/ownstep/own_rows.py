"""Data that each worker reads its own rows of: a step is compared with one device's there too."""

import keras
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from tests.equality.measure import use
from tests.ownstep.measure import state
from tests.ownstep.programs import FEATURES, PROGRAMS, regressed
from tests.ownstep.test_check import compares_rows
from tests.ownstep.test_check import wrapped as checked
from tests.pairs import seeded

ROWS = 6  # Of a batch, of which worker 0 has four.


def trained_on_own_rows(cluster):
    """Train, on one device with whole batches, and return what it came to."""
    use("float64")
    data = regressed()
    whole = tf.data.Dataset.from_tensor_slices((data["x"][:12], data["y"][:12])).batch(ROWS)
    model = seeded(PROGRAMS["guide"].model)
    if cluster is None:
        model.fit(whole, verbose=0)
        return state(model)
    mine = slice(0, 4) if cluster.index == 0 else slice(4, ROWS)
    own = whole.map(lambda x, y: (x[mine], y[mine]))
    with pytest.raises(errors.ModelError, match="rows whole and divided between 2 replicas"):
        fit(checked(compares_rows, replicas=None), own)
    with pytest.raises(errors.ModelError, match="rows whole and divided between 2 replicas"):
        fit(checked(compares_rows, Reading(), replicas=None), own.map(in_three_kinds))
    return state(fit(kparallel.wrap(model), own))


class Reading(keras.Model):
    """Makes numbers of strings, ragged and sparse rows."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        lengths = tf.cast(tf.strings.length(x["words"]), "float64")[:, None]
        sparse = tf.ensure_shape(tf.sparse.to_dense(x["sparse"]), [None, FEATURES])
        return self.dense(tf.concat([lengths, tf.reduce_sum(x["ragged"], 1)[:, None], sparse], 1))


def in_three_kinds(x, y):
    ragged = tf.RaggedTensor.from_tensor(tf.nn.relu(x), padding=0.0)
    return {"words": tf.strings.as_string(x[:, 0]), "sparse": tf.sparse.from_dense(tf.nn.relu(x)), "ragged": ragged}, y


def fit(model, own):
    strategy = model.distribute_strategy
    model.fit(strategy.distribute_datasets_from_function(lambda context: own), steps_per_epoch=2, verbose=0)
    return model
