"""The speed of this machine's devices."""

import keras

from kparallel.stage.speed import default_dtypes, layer_efficiency


def test_the_users_float_dtype_is_measured_once():
    usual = ("float32", "float64", "bfloat16", "float16")
    assert default_dtypes() == usual
    keras.config.set_floatx("float16")
    assert default_dtypes() == usual


def test_layers_are_no_faster_than_matrices():
    assert layer_efficiency(rate=1.0) == 1.0
    assert 0 < layer_efficiency(rate=1e18) < 1e-3
