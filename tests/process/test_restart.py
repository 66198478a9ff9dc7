"""A worker killed in the middle of an epoch: the gang restarts, resumes, and ends where an uninterrupted run ends."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.processes import ENVIRONMENT

TRAIN = """
import json, os, signal, sys
import keras, numpy as np, kparallel

folder, fate, options, restores = sys.argv[1:]
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
keras.utils.set_random_seed(1)
layers = keras.layers
model = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.Dropout(0.5), layers.Dense(1)])
model = kparallel.wrap(model, **json.loads(options))
model.compile("adam", "mse")

KILLS = [(0, 1, 1, 2), (1, 0, 2, 3)]  # The number of restarts, the worker, the epoch and the batch.

class Fate(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        print("epoch", epoch, flush=True)
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # The second time the chief, in the epoch that the first restart has begun again.
        if fate == "killed" and (int(os.environ["KPARALLEL_RESTARTS"]), index, self.epoch, batch) in KILLS:
            os.kill(os.getpid(), signal.SIGKILL)

rng = np.random.default_rng(0)
x = rng.normal(size=(40, 4)).astype("float32")
if restores == "BackupAndRestore":
    callbacks = [Fate(), keras.callbacks.BackupAndRestore(f"{folder}/{fate}-backup")]
else:
    callbacks = [Fate(), kparallel.callbacks.Checkpoint(f"{folder}/{fate}-steps", every_steps=2)]
model.fit(x, x[:, :1], batch_size=8, epochs=4, verbose=0, callbacks=callbacks)
state = [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)]
np.savez(f"{folder}/{fate}-{index}.npz", *state)
"""


SHARED = {"shard": "weights", "replicas": 2, "stages": 2, "devices": ["CPU:0"]}


@pytest.mark.full
@pytest.mark.parametrize(
    ("options", "restores"),
    [
        ({}, "BackupAndRestore"),
        (SHARED, "BackupAndRestore"),
        (SHARED | {"microbatches": 2}, "Checkpoint"),
    ],
)
def test_a_killed_run_resumes_and_ends_as_if_nothing_had_happened(tmp_path, options, restores):
    script = tmp_path / "script.py"
    script.write_text(TRAIN)
    command = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--restarts", "2", script, tmp_path]
    epochs = {}
    for fate in ("whole", "killed"):
        run = [*command, fate, json.dumps(options), restores]
        done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-6000:]
        epochs[fate] = [line for line in done.stdout.splitlines() if line.startswith("[0] epoch")]
    assert "kparallel: worker 1 was ended by SIGKILL; restart 1 of 2" in done.stderr
    assert "kparallel: worker 0 was ended by SIGKILL; restart 2 of 2" in done.stderr
    assert epochs["whole"] == [f"[0] epoch {epoch}" for epoch in (0, 1, 2, 3)]
    assert epochs["killed"] == [f"[0] epoch {epoch}" for epoch in (0, 1, 1, 2, 2, 3)]
    want = np.load(tmp_path / "whole-0.npz")
    for name in ("whole-1", "killed-0", "killed-1"):
        got = np.load(tmp_path / f"{name}.npz")
        for key in want.files:
            np.testing.assert_allclose(got[key], want[key], rtol=0, atol=1e-6, err_msg=f"{name} {key}")
