"""What needs a fresh process: importing, the backend, the order in which devices are made."""

import os
import subprocess
import sys

import pytest

IMPORT = """
import os, sys, threading
before = dict(os.environ), threading.active_count(), list(sys.path)
import kparallel
kparallel.schedule.chart  # First, since a plan would import it.
kparallel.Mesh, kparallel.Plan, kparallel.errors, dir(kparallel)
import kparallel.planning.plan
assert not {"tensorflow", "keras"} & set(sys.modules), sorted(sys.modules)
assert before == (dict(os.environ), threading.active_count(), list(sys.path))
try:
    kparallel.missing
except AttributeError as error:
    assert "missing" in str(error)
else:
    raise AssertionError
kparallel.wrap
import tensorflow as tf
from tensorflow.python.eager import context
assert "keras" in sys.modules and not context.context()._initialized  # No device was touched.

# From here on they are.
tf.constant(1.0) + 1
try:
    kparallel.virtual_devices(2)
except kparallel.errors.DeviceError as error:
    assert "1 CPU device" in str(error) and "first thing" in str(error), error
else:
    raise AssertionError
assert kparallel.virtual_devices(1) == ("CPU:0",)
"""

# Keras's NumPy backend imports jax for its FFT alone.
BACKEND = """
import importlib.abc, importlib.machinery, sys
from unittest.mock import MagicMock

class Jax(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "jax" else None

    def create_module(self, spec):
        return MagicMock(__spec__=spec, __path__=[], __name__=spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Jax())
import keras, kparallel
assert keras.backend.backend() == "numpy"
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
for call in (kparallel.wrap, kparallel.plan):
    try:
        call(model)
    except kparallel.errors.BackendError as error:
        assert "'numpy'" in str(error) and "KERAS_BACKEND=tensorflow" in str(error), error
    else:
        raise AssertionError(call)
"""

SCRIPTS = {"import": (IMPORT, {}), "backend": (BACKEND, {"KERAS_BACKEND": "numpy"})}


@pytest.mark.parametrize("name", SCRIPTS)
def test_in_a_fresh_process(name):
    code, environment = SCRIPTS[name]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=360)
    assert run.returncode == 0, run.stderr
