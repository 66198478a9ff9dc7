"""Reductions may start while earlier layers still run backward: told from the graph that TensorFlow really runs."""

import keras
import numpy as np
import pytest

import kparallel
from examples.benchmarks.executed import early_share
from kparallel.collective.workers import BetweenWorkers

LAYERS, UNITS = 8, 16
KERNEL = 4 * UNITS * UNITS


def share(jit=False, bytes_per_pack=None, **options):
    """Return the share of gradient bytes whose sum needs no result of the last backward operation."""
    layers = [keras.layers.Dense(UNITS, use_bias=False, activation="tanh") for _ in range(LAYERS)]
    model = kparallel.wrap(keras.Sequential([keras.Input((UNITS,)), *layers]), replicas=2, **options)
    model.compile("sgd", "mse", jit_compile=jit)
    runtime = model._kparallel
    columns = [[row[s] for row in runtime.layout.rows] for s in range(len(runtime.layout.exchanges))]
    packed = [BetweenWorkers(column, runtime.strategy, 2, 0, bytes_per_pack or 1) for column in columns]
    x = np.ones((8, UNITS), "float32")
    return early_share(model, lambda: model.fit(x, x, verbose=0), packed if bytes_per_pack else None)


@pytest.mark.parametrize(
    "options", [{}, {"microbatches": 2}, {"stages": 2, "microbatches": 2}], ids=["data", "microbatches", "pipeline"]
)
def test_each_gradient_is_reduced_as_soon_as_it_is_there(options):
    assert share(**options) == pytest.approx((LAYERS - 1) / LAYERS)


def test_packs_between_workers_do_not_wait_for_the_last_gradient():
    assert share(bytes_per_pack=2 * KERNEL) >= 0.7  # 8 kernels: all but the last pack, of 2.
    assert share(bytes_per_pack=LAYERS * KERNEL) == 0  # One pack waits for all.


def test_a_compiled_stage_gives_its_gradients_together():
    assert share(jit=True) == 0
    assert share(jit=True, stages=2, microbatches=2) == 0.5
