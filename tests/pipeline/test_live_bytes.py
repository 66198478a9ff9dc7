"""What a device holds in a step whose weights are shared out: its own, and no more than two stages' of the others."""

import keras
import numpy as np

import kparallel
from examples.benchmarks.live_bytes import live_bytes, tensor_bytes

STAGES, UNITS = 5, 16


def test_no_more_than_two_stages_weights_are_on_a_device_and_none_from_forward_to_backward():
    found = {}
    for shard in ("weights", None):
        layers = [keras.layers.Dense(UNITS, activation="tanh") for _ in range(STAGES)]
        model = kparallel.wrap(
            keras.Sequential([keras.Input((UNITS,)), *layers]),
            replicas=2,
            stages=STAGES,
            microbatches=1,
            devices=["CPU:0", "CPU:1"],
            shard=shard,
        )
        model.compile("adam", "mse")
        x = np.ones((4, UNITS), "float32")
        found[shard] = live_bytes(model, lambda model=model, x=x: model.fit(x, x, batch_size=4, verbose=0))
        stage = sum(tensor_bytes(weight.value.values[0]) for weight in layers[0].weights)
    shared, whole = found["weights"], found[None]
    for device in shared.rest:
        assert 0 < shared.brought[device] <= 2 * stage and whole.brought[device] == 0
        assert 0 < shared.activations[device] <= whole.activations[device]
    # Of weights and two slots a half, and at most the largest weight with its slots.
    largest = 3 * 4 * UNITS**2
    assert max(shared.rest.values()) <= 3 * STAGES * stage / 2 + largest + 100  # And the optimizer's scalars.
    assert max(shared.in_step.values()) < min(whole.in_step.values())
