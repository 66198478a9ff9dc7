"""Names the private name that a release of Keras or TensorFlow moved."""

import operator

import keras
import numpy as np
import pytest

from kparallel.private import KERAS_ATTRIBUTES, PRIVATE_NAMES, mirrored


@pytest.mark.parametrize(("owner", "name"), PRIVATE_NAMES)
def test_private_name_exists(owner, name):
    assert hasattr(operator.attrgetter(owner.removeprefix("keras."))(keras), name), f"{owner} lost {name}"


@pytest.fixture(scope="module")
def trained():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))
    model.compile("adam", "mse")
    model.fit(np.ones((3, 3)), np.ones((3, 1)), validation_split=0.4, verbose=0)
    model.predict(np.ones((3, 3)), verbose=0)
    return model


@pytest.mark.parametrize(
    "path",
    [
        "_compile_config.config",
        "_layers",
        "_metrics",
        "_loss_tracker",
        "_compile_loss._flat_losses",
        "_distribute_strategy",
        "optimizer._trainable_variables",
        "optimizer._learning_rate",
        "layers._metrics",
        "layers._seed_generators",
        "weights._value",
        "weights._path",
    ],
)
def test_private_attribute_exists(trained, path):
    first, _, rest = path.partition(".")
    owner = getattr(trained, first)
    if rest:
        assert operator.attrgetter(rest)(owner[-1] if isinstance(owner, list) else owner) is not None
    assert "jit_compile" in trained._compile_config.config


def test_every_public_attribute_that_keras_keeps_is_known(trained):
    assert {name for name in vars(trained) if not name.startswith("_")} <= KERAS_ATTRIBUTES


def test_strategies_number_their_collectives_apart():
    one, other = (mirrored(["CPU:0", "CPU:1"]).extended._collective_keys._group_key for _ in range(2))
    assert abs(one - other) >= 16
