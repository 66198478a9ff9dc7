"""Reductions may start while earlier layers still run backward: told from the graph that TensorFlow really runs."""

import keras
import numpy as np
import pytest

import kparallel
from examples.benchmarks.executed import Nobody, early_share
from kparallel.comm.ring_communicator import RingCommunicator
from kparallel.comm.tf_collectives import TFCommunicator
from tests.choice import some

LAYERS, UNITS = 8, 16
KERNEL = 4 * UNITS * UNITS
REPORT = 64  # Room for what is reported, which travels along.


def over_ring(column, strategy):
    return RingCommunicator(column, Nobody(), TFCommunicator(column, strategy, 2, 0), 0)


def by_tensorflow(column, strategy):
    return TFCommunicator(column, strategy, 2, 0)


def share(jit=False, workers=None, **options):
    """Return the share of gradient bytes whose sum needs no result of the last backward operation."""
    layers = [keras.layers.Dense(UNITS, use_bias=False, activation="tanh") for _ in range(LAYERS)]
    model = kparallel.wrap(keras.Sequential([keras.Input((UNITS,)), *layers]), replicas=2, **options)
    model.compile("sgd", "mse", jit_compile=jit)
    runtime = model._kparallel
    columns = [[row[s] for row in runtime.placement.rows] for s in range(len(runtime.placement.communicators))]
    packed = workers and [workers(column, runtime.strategy) for column in columns]
    x = np.ones((8, UNITS), "float32")
    return early_share(model, lambda: model.fit(x, x, verbose=0), packed)


@pytest.mark.parametrize(
    "options", [{}, {"microbatches": 2}, {"stages": 2, "microbatches": 2}], ids=["data", "microbatches", "pipeline"]
)
def test_each_gradient_is_reduced_as_soon_as_it_is_there(options):
    assert share(**options) == pytest.approx((LAYERS - 1) / LAYERS)


@pytest.mark.parametrize("workers", some([over_ring, by_tensorflow], over_ring))
def test_packs_between_workers_do_not_wait_for_the_last_gradient(monkeypatch, workers):
    monkeypatch.setattr("kparallel.comm.packs.PACK", 2 * KERNEL + REPORT)
    assert share(workers=workers) == 6 / 8  # All but the last pack, of two kernels.
    monkeypatch.setattr("kparallel.comm.packs.PACK", LAYERS * KERNEL + REPORT)
    assert share(workers=workers) == 0  # One pack waits for all.
    monkeypatch.setattr("kparallel.comm.packs.WORTH", KERNEL)
    assert share(workers=workers) == 7 / 8  # The last gradient, less than a fifth of all, waits by itself.
    monkeypatch.setattr("kparallel.comm.packs.ALONE", KERNEL)
    assert share(workers=workers) == 7 / 8  # Each by itself.


@pytest.mark.full
def test_a_compiled_stage_gives_its_gradients_together():
    assert share(jit=True) == 0
    assert share(jit=True, stages=2, microbatches=2) == 0.5
