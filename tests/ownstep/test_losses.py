"""`gather` and `all_reduce` in losses that `compile` is given."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.choice import some
from tests.equality.measure import differences, use
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import train
from tests.ownstep.programs import mlp, regressed
from tests.pairs import pair


def against_all(y, y_pred):
    """Looks like a mean over rows: the product has as many of them as its first factor."""
    logits = tf.matmul(y_pred, kparallel.gather(y_pred), transpose_b=True)
    return tf.reduce_mean(tf.nn.softmax(logits, 1) ** 2) + tf.reduce_mean((y - y_pred) ** 2)


def of_sums(y, y_pred):
    return tf.reduce_sum((y - y_pred) ** 2) / (1.0 + kparallel.all_reduce(tf.reduce_sum(y_pred**2)))


def by_places(y, y_pred):
    """Of the rows by their places in the batch, and of the first six alone."""
    return tf.reduce_mean((y_pred[1:] - y_pred[:-1]) ** 2) + tf.reduce_mean((y - y_pred)[:6] ** 2)


MICROBATCHES = {"replicas": 2, "microbatches": 2}


@pytest.mark.parametrize(
    ("loss", "options"),
    some(
        [(loss, options) for loss in (against_all, of_sums, by_places) for options in ({"replicas": 3}, MICROBATCHES)],
        (against_all, {"replicas": 3}),
        (of_sums, MICROBATCHES),
    ),
)
def test_a_loss_of_all_rows_equals_plain_keras(loss, options):
    use("float64")

    def build():
        model = mlp(8, 1)
        model.compile(keras.optimizers.Adam(0.01), loss)
        return model

    data = regressed()
    data = {name: part[:14] for name, part in data.items()}
    found = differences(*[train(model, data) for model in pair(build, **options)][::-1])
    far = {entry: difference for entry, difference in found.items() if not difference <= FLOAT64}
    assert not far


def test_outside_a_step_all_rows_are_there():
    rows = tf.constant([[1.0], [2.0]])
    np.testing.assert_array_equal(kparallel.gather(rows), rows)
    assert float(kparallel.all_reduce(3.0)) == 3.0
