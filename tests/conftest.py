"""Four virtual CPU devices, made before TensorFlow starts; every test starts from the same seed."""

import gc
import os
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

import kparallel

HERE = Path(__file__).parent
# The order of `pytest -n`: files that start processes, then those that take long. The many short ones come last, so
# that no process works alone at the end.
PROCESSES = ("cluster", "keras_suite", "process")
LONG = ("ownstep", "equality", "pipeline", "catalogue")

kparallel.virtual_devices(4)
gc.freeze()  # The objects of TensorFlow's and Keras's modules stay; each full collection would walk all of them.
gc.set_threshold(20_000, 20, 20)  # Tracing allocates much, of which little is garbage.


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # Of pytest-xdist, which would begin with the files of most tests.
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    def place(item):
        folder = item.path.relative_to(HERE).parts[0]
        if folder in PROCESSES:
            return 0, item.path.name  # The gangs of `cluster` among the lighter files of `process`.
        return 1 if folder in LONG else 2, ""

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
