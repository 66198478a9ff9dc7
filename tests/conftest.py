"""Four virtual CPU devices, made before TensorFlow starts; every test starts from the same seed."""

import gc
import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

import kparallel

kparallel.virtual_devices(4)
gc.freeze()  # The objects of TensorFlow's and Keras's modules stay; each full collection would walk all of them.


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
