"""Whichever way a wrapped model is written, the file is plain: a process without kparallel goes on from it."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import kparallel
from tests.choice import some

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 3)).astype("float32")
Y = RNG.normal(size=(10, 1)).astype("float32")

GO_ON = """
import json, pathlib, sys
sys.modules["kparallel"] = None  # Importing it fails.
import keras, numpy as np, tensorflow as tf
folder = pathlib.Path(sys.argv[1])
data = np.load(folder / "data.npz")
x, y = data["x"], data["y"]
results = {}

def go_on(name, model):
    assert type(model) is type(keras.Model(i := keras.Input((1,)), i)), type(model)
    assert type(model.optimizer) is keras.optimizers.Adam, name
    assert [v.name for v in model.optimizer.variables][:2] == ["iteration", "learning_rate"]
    results[name + "_outputs"] = model.predict(x, verbose=0)
    model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0)
    for index, weight in enumerate([*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]):
        results[f"{name}_{index}"] = weight

for name in ("method.keras", "function.keras", "checkpoint.keras", "pickle"):
    if name == "pickle":
        import pickle
        model = pickle.loads((folder / "pickle").read_bytes())
    else:
        model = keras.models.load_model(folder / name)
    go_on(name, model)
# Keras itself can not go on training from a legacy file.
legacy = keras.models.load_model(folder / "legacy.h5", compile=False)
results["legacy_outputs"] = legacy.predict(x, verbose=0)
model = keras.models.model_from_json((folder / "model.json").read_text())
model.load_weights(folder / "model.weights.h5")
results["json_outputs"] = model.predict(x, verbose=0)
served = tf.saved_model.load(str(folder / "export"))
results["export_outputs"] = served.serve(x).numpy()
layer = keras.layers.TFSMLayer(str(folder / "export"), call_endpoint="serve")
results["layer_outputs"] = np.asarray(layer(x))
np.savez(folder / "results.npz", **results)
"""


def net():
    layers = keras.layers
    inputs = keras.Input((3,))
    hidden = layers.BatchNormalization()(layers.Dense(4, activation="tanh")(inputs))
    return keras.Model(inputs, layers.Dense(1)(hidden))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_process_without_kparallel_goes_on_from_every_file(tmp_path):
    import pickle

    # One replica, so that BatchNorm's moments are those of the whole batch in both processes; two copies' files
    # are written by the same code, see the test below.
    wrapped = kparallel.wrap(net(), devices=["CPU:1"])
    wrapped.compile("adam", "mse")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "checkpoint.keras")
    wrapped.fit(X, Y, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[checkpoint])
    wrapped.save(tmp_path / "method.keras")
    keras.saving.save_model(wrapped, tmp_path / "function.keras")
    (tmp_path / "pickle").write_bytes(pickle.dumps(wrapped))
    (tmp_path / "model.json").write_text(wrapped.to_json())
    wrapped.save_weights(tmp_path / "model.weights.h5")
    wrapped.export(tmp_path / "export", verbose=False)
    wrapped.save(tmp_path / "legacy.h5")  # Last: Keras takes the optimizer out of the compile arguments here.
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    outputs = wrapped.predict(X, verbose=0)
    subprocess.run([sys.executable, "-c", GO_ON, tmp_path], check=True, timeout=240)
    results = np.load(tmp_path / "results.npz")
    for name in results.files:
        if name.endswith("_outputs"):
            np.testing.assert_allclose(results[name], outputs, atol=1e-6, err_msg=name)
    wrapped.fit(X, Y, batch_size=4, epochs=1, shuffle=False, verbose=0)
    final = [*wrapped.get_weights(), *(v.numpy() for v in wrapped.optimizer.variables)]
    for name in ("method.keras", "function.keras", "checkpoint.keras", "pickle"):
        for index, weight in enumerate(final):
            np.testing.assert_allclose(results[f"{name}_{index}"], weight, atol=1e-5, err_msg=f"{name} {index}")


@pytest.mark.parametrize("policy", some(["float32", "mixed_float16"], "mixed_float16"))
def test_files_of_two_replicas_restore_here_as_well(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    plain, wrapped = net(), kparallel.wrap(net(), replicas=2)
    wrapped.compile("adam", "mse")
    wrapped.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    wrapped.save(tmp_path / "model.keras")
    wrapped.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(plain) and not isinstance(loaded, kparallel.ParallelModel)
    assert type(loaded.optimizer) is type(wrapped.optimizer)
    for one, other in zip(loaded.optimizer.variables, wrapped.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    saved = loaded.get_weights()
    again = kparallel.wrap(loaded, replicas=2)
    for model in (again, wrapped):
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for one, other in zip(again.get_weights(), wrapped.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    wrapped.load_weights(tmp_path / "model.weights.h5")
    for one, other in zip(wrapped.get_weights(), saved, strict=True):
        np.testing.assert_array_equal(one, other)
    first = wrapped.weights[0].value
    np.testing.assert_array_equal(first.values[0].numpy(), first.values[1].numpy())
