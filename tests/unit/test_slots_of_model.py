"""How many slots an optimizer keeps for each weight; Adam's two are assumed where there is none."""

import keras
import pytest

from kparallel.model.slots_of_model import optimizer_slots

OPTIMIZERS = [
    (None, 2),
    (keras.optimizers.SGD(), 0),
    (keras.optimizers.SGD(momentum=0.9), 1),
    (keras.optimizers.Adam(amsgrad=True), 3),
    (keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(use_ema=True)), 3),
]


@pytest.mark.parametrize(("optimizer", "slots"), OPTIMIZERS, ids=str)
def test_options_add_slots(optimizer, slots):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    if optimizer is not None:
        model.compile(optimizer, "mse")
    assert optimizer_slots(model) == slots
