"""Files are plain Keras files, and importing kparallel loads no TensorFlow: each in a process of its own."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import kparallel

LOAD = """
import sys
sys.modules["kparallel"] = None  # importing it fails
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert type(model) is keras.Sequential, type(model)
assert type(model.optimizer) is keras.optimizers.Adam
assert int(model.optimizer.iterations.numpy()) == 1
np.save(sys.argv[2], model.predict(np.ones((2, 3)), verbose=0))
"""


@pytest.mark.parametrize("how", ["method", "function", "checkpoint"])
def test_saved_files_load_without_kparallel(tmp_path, how):
    wrapped = kparallel.wrap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    wrapped.compile("adam", "mse")
    path = tmp_path / "model.keras"
    callbacks = [keras.callbacks.ModelCheckpoint(path)] if how == "checkpoint" else []
    wrapped.fit(np.ones((6, 3)), np.ones((6, 1)), verbose=0, callbacks=callbacks)
    if how == "method":
        wrapped.save(path)
    if how == "function":
        keras.saving.save_model(wrapped, path)
    out = tmp_path / "out.npy"
    subprocess.run([sys.executable, "-c", LOAD, path, out], check=True, timeout=120)
    np.testing.assert_allclose(np.load(out), wrapped.predict(np.ones((2, 3)), verbose=0), atol=1e-6)


def test_importing_kparallel_loads_no_tensorflow():
    code = "import sys, kparallel; kparallel.Mesh, kparallel.Plan; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
