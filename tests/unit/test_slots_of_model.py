"""How many slots an optimizer keeps for each weight; Adam's two are assumed where there is none."""

import keras
import pytest

from kparallel.model.slots_of_model import optimizer_slots


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (None, 2),
        (keras.optimizers.SGD(), 0),
        (keras.optimizers.SGD(momentum=0.9), 1),
        (keras.optimizers.Adam(amsgrad=True, use_ema=True), 4),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(momentum=0.9)), 1),
    ],
)
def test_each_option_of_an_optimizer_may_add_a_slot(optimizer, expected):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    if optimizer is not None:
        model.compile(optimizer)
    assert optimizer_slots(model) == expected
