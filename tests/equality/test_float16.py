"""Loss scales under mixed_float16: what overflows depends on how many rows are added up in float16."""

import keras
import numpy as np
import pytest

import kparallel
from tests.equality.measure import use

ROWS = 4
LIMIT = 65504  # The largest number of float16.


@pytest.fixture
def halves():
    use("mixed_float16")
    yield
    use("float64")


def trained(scale, wrap=lambda model: model):
    """Return the loss scale after a step, and the bias, of which each row's gradient is 1 / ROWS, times the scale."""
    model = wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=scale)
    model.compile(optimizer, "mae")
    model.train_on_batch(np.zeros((ROWS, 1)), np.full((ROWS, 1), -1.0))
    return float(optimizer.dynamic_scale), float(model.layers[-1].bias.numpy()[0])


def test_a_loss_scale_is_halved_where_a_sum_of_rows_overflows(halves):
    """Each of two replicas adds up half of the rows, and their sums are added up in float32."""
    scale = 2.0**16
    assert scale / 2 < LIMIT < scale
    right = -0.5
    assert trained(scale / 2) == (scale / 2, right)
    assert trained(scale) == (scale / 2, 0.0)  # No update.
    assert trained(scale, lambda model: kparallel.wrap(model, replicas=2)) == (scale, right)
    # With twice the scale a replica's sum overflows as well.
    assert trained(2 * scale, lambda model: kparallel.wrap(model, replicas=2)) == (scale, 0.0)
