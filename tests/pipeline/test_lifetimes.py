"""What a step keeps in memory, from what its actions hand on: 1F1B against GPipe, and the law of recomputation."""

import keras
import numpy as np
import pytest

import kparallel
from examples.benchmarks.lifetimes import lifetimes

STAGES, LAYERS, UNITS = 4, 3, 8


def record(microbatches, rows=32, **options):
    layers = [keras.layers.Dense(UNITS, activation="tanh") for _ in range(STAGES * LAYERS)]
    model = kparallel.wrap(
        keras.Sequential([keras.Input((UNITS,)), *layers]),
        replicas=1,
        stages=STAGES,
        microbatches=microbatches,
        **options,
    )
    model.compile("sgd", "mse")
    x = np.ones((rows, UNITS), "float32")
    return lifetimes(lambda: model.fit(x, x, batch_size=rows, verbose=0))


def test_one_f_one_b_keeps_as_many_microbatches_as_stages_follow():
    gpipe, one_f_one_b = (record(16, schedule=schedule) for schedule in ("gpipe", "1f1b"))
    for stage in range(STAGES):
        ratio = one_f_one_b.peak(stage) / gpipe.peak(stage)
        # The last stage has the loss behind it too, whose factors are no microbatch's own.
        assert ratio == pytest.approx((STAGES - stage) / 16, abs=0.002 if stage == STAGES - 1 else 0)
    activation = 4 * UNITS * 32 // 16
    # Each layer's input and, for tanh, its output; the output of one is the input of the next.
    assert gpipe.peak(1) == 16 * (LAYERS + 1) * activation


@pytest.mark.parametrize("microbatches", [2, 8])
def test_recomputation_keeps_inputs_of_all_and_activations_of_one_microbatch(microbatches):
    """GPipe's law, O(N + L/K · N/M): N rows of a stage's inputs, L/K layers' activations of N/M rows."""
    found = record(microbatches, schedule="gpipe", recompute="always")
    row = 4 * UNITS
    for stage in range(1, STAGES - 1):
        assert found.peak(stage) == row * (32 + LAYERS * 32 // microbatches)
