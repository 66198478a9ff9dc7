"""KerasTuner searches with wrapped models as with plain ones."""

import keras
import keras_tuner
import numpy as np
import pytest

import kparallel
from tests.assertions import doubles

X = np.random.default_rng(0).normal(size=(20, 3))
Y = X.sum(axis=1, keepdims=True)


def searched(folder, wrap):
    """Return the trials of a small search, best first, and the losses of the best model."""

    def build(hp):
        keras.utils.set_random_seed(0)
        hidden = keras.layers.Dense(hp.Int("units", 2, 8), activation="tanh")
        model = wrap(keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(1)]))
        model.compile(keras.optimizers.Adam(hp.Choice("learning_rate", [0.1, 0.01])), "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    tuner = keras_tuner.RandomSearch(build, objective="val_loss", max_trials=2, seed=3, directory=folder)
    tuner.search(X, Y, validation_split=0.2, epochs=2, batch_size=7, shuffle=False, verbose=0)
    trials = [(trial.hyperparameters.values, trial.score) for trial in tuner.oracle.get_best_trials(2)]
    return trials, tuner.get_best_models()[0].evaluate(X, Y, verbose=0)


@pytest.mark.full
@pytest.mark.full
def test_a_search_scores_as_with_plain_models(tmp_path):
    doubles()
    wrapped, loss = searched(tmp_path / "wrapped", lambda model: kparallel.wrap(model, replicas=2))
    plain, plain_loss = searched(tmp_path / "plain", lambda model: model)
    assert [values for values, _ in wrapped] == [values for values, _ in plain]
    assert wrapped[0][1] < wrapped[1][1]
    np.testing.assert_allclose([score for _, score in wrapped], [score for _, score in plain], rtol=0, atol=1e-9)
    np.testing.assert_allclose(loss, plain_loss, rtol=0, atol=1e-9)
