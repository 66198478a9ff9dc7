"""The learning rate that warms up, on plain and on wrapped models."""

import keras
import numpy as np
import pytest

from kparallel.callbacks import Warmup
from tests.unit.line import X, Y, fit, net


def by_hand(rates, momentum):
    """SGD with the velocity free of the rate, as Goyal et al. write it: v = m v + g, w = w - rate v."""
    weights = [w.copy() for w in net("sgd").get_weights()]
    velocity = [np.zeros_like(w) for w in weights]
    for step, rate in enumerate(rates):
        rows = slice(step % 6 * 4, step % 6 * 4 + 4)
        error = 2 * (X[rows] @ weights[0] + weights[1] - Y[rows]) / 4
        for index, gradient in enumerate((X[rows].T @ error, error.sum(0))):
            velocity[index] = momentum * velocity[index] + gradient
            weights[index] = weights[index] - rate * velocity[index]
    return weights


@pytest.mark.parametrize("replicas", [None, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_warmup_is_that_of_the_paper(momentum, replicas):
    model = net(keras.optimizers.SGD(0.01, momentum), replicas)
    history = fit(model, Warmup(scale=None if replicas else 2, epochs=1.5)).history
    rates = [0.01 * (1 + min(1, step / 9)) for step in range(12)]
    for actual, expected in zip(model.get_weights(), by_hand(rates, momentum), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], [0.01 * (1 + 6 / 9), 0.02], rtol=1e-6)


def test_warmup_leaves_the_rate_to_others_once_it_is_over():
    model = net(keras.optimizers.SGD(0.05, momentum=0.9))
    warmup = Warmup(scale=4, steps=3)
    lower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.001 if epoch == 1 else rate)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[warmup, lower])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)


def test_warmup_refuses_what_it_cannot_warm():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="follows a LearningRateSchedule"):
        fit(net(keras.optimizers.SGD(schedule)), Warmup(scale=2))
    for arguments in ({"scale": 0}, {"epochs": -1}, {"steps": 0}):
        with pytest.raises(ValueError, match="above 0"):
            Warmup(**arguments)
