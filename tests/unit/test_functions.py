"""What a step logs of the losses of several outputs, by the rows of each batch."""

import keras
import numpy as np
import pytest

from kparallel.compat.training import known_rows
from tests.pairs import pair

X = np.random.default_rng(0).normal(size=(7, 3))
Y = {"a": X[:, :1], "b": X[:, 1:2]}


def two_outputs():
    inputs = keras.Input((3,))
    return keras.Model(inputs, {name: keras.layers.Dense(1, name=name)(inputs) for name in Y})


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {}, {"steps_per_execution": 2}])
def test_the_last_batchs_losses_weigh_as_in_plain_keras(options):
    """Its two rows count two where Keras knows them, and one like the others' where it does not."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    plain, wrapped = pair(two_outputs, replicas=2)
    results = []
    for model in (plain, wrapped):
        model.compile("sgd", {"a": "mse", "b": "mae"}, **options)
        history = model.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0).history
        results.append([*history["a_loss"], *history["b_loss"], *model.evaluate(X, Y, batch_size=4, verbose=0)])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12)


def test_rows_that_keras_knows_are_those_of_its_trace():
    model = two_outputs()
    model.compile("sgd", "mse", run_eagerly=True)
    assert [known_rows(model)((X[:rows], Y)) for rows in (5, 2)] == [5, 2]
    model.compile("sgd", "mse")
    known = known_rows(model)
    first = None if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16) else 5
    assert [known((X[:rows], X[:rows])) for rows in (5, 5, 2, 3, 5)] == [first, first, None, None, first]
