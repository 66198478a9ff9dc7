"""Runs that are killed or asked to leave, at one step or another: they go on from their checkpoints to the same end."""

import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.processes import ENVIRONMENT

GRACE = "120"  # Seconds for the last step and its checkpoint, also where the machine has other work.

# Step by step it tells where it stands, waits where a test says so, and kills itself where a test says that.
TRAIN = """
import json, os, pathlib, signal, sys, time
import keras, numpy as np, kparallel

folder, fate = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
index = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
keras.config.set_floatx("float64")
keras.utils.set_random_seed(1)
layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dropout(0.5, seed=2), keras.layers.Dense(1)]
model = kparallel.wrap(keras.Sequential([keras.Input((4,)), *layers]))
model.compile("adam", "mse")

class Fate(keras.callbacks.Callback):
    epoch = steps = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        print("step", 5 * self.epoch + batch, flush=True)
        place = [index, int(os.environ.get("KPARALLEL_RESTARTS", 0)), 5 * self.epoch + batch]
        self.steps += 1
        if place in fate.get("killed", []) or [*place[:2], self.steps] in fate.get("killed_behind", []):
            os.kill(os.getpid(), signal.SIGKILL)
        if place == fate.get("waits"):
            while not (folder / "go").exists():
                time.sleep(0.01)

x = np.random.default_rng(0).normal(size=(40, 4))
checkpoint = kparallel.callbacks.Checkpoint(folder / "checkpoints", every_steps=3)
# What they have counted goes on, too, on both workers: the rate is halved after each epoch but the first, and the
# weights of the first are the best.
others = [
    keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=9),
    keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True),
]
callbacks = [checkpoint, *others, Fate()]
history = model.fit(x, x[:, :1], batch_size=8, epochs=4, verbose=0, callbacks=callbacks).history
state = [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables), history["loss"]]
np.savez(folder / f"{index}.npz", *state)
"""


def command(folder, *options, **fate):
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(TRAIN)
    return [sys.executable, "-m", "kparallel", "run", *options, script, folder, json.dumps(fate)]


def run(folder, *options, **fate):
    done = subprocess.run(
        command(folder, *options, **fate), env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder, "-n", "2")
    return saved(folder, 0)


def saved(folder, index):
    """Return what a worker saved at its end, by name."""
    with np.load(folder / f"{index}.npz") as file:
        return dict(file)


def assert_same(folder, want, workers=2):
    for index in range(workers):
        got = saved(folder, index)
        for key in want:
            np.testing.assert_array_equal(got[key], want[key], err_msg=f"worker {index}, {key}")


def steps_of(lines, index=0):
    return [int(line.rpartition(" ")[2]) for line in lines.splitlines() if line.startswith(f"[{index}] step")]


@pytest.mark.full
def test_a_run_that_is_killed_twice_ends_as_an_undisturbed_one(tmp_path, undisturbed):
    killed = [(random.Random(4).randrange(2), attempt, step) for attempt, step in enumerate((4, 16))]
    done = run(tmp_path, "-n", "2", "--restarts", "2", killed=killed)
    assert "restart 2 of 2" in done.stderr
    assert (
        len(steps_of(done.stdout)) < 20 + 2 * 7
    )  # At most what came behind the last two checkpoints is trained again.
    assert_same(tmp_path, undisturbed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_is_killed_ten_times_ends_as_an_undisturbed_one(tmp_path, undisturbed, seed):
    """Each time on one of the workers, after some steps of that start."""
    draw = random.Random(seed)
    killed = [(draw.randrange(2), attempt, draw.randint(1, 7)) for attempt in range(10)]
    run(tmp_path, "-n", "2", "--restarts", "10", killed_behind=killed)
    assert_same(tmp_path, undisturbed)


@pytest.mark.full
@pytest.mark.parametrize("step", range(0, 18, 2))
def test_sigterm_ends_a_run_behind_a_checkpoint_and_no_step_is_lost(tmp_path, undisturbed, step):
    told_to_leave(tmp_path, undisturbed, step)


def test_a_run_that_is_killed_and_then_told_to_leave_ends_as_an_undisturbed_one(tmp_path, undisturbed):
    err = told_to_leave(tmp_path, undisturbed, 12, "--restarts", "1", killed=[(0, 0, 7)])
    assert "worker 0 was ended by SIGKILL; restart 1 of 1" in err


def told_to_leave(folder, want, step, *options, killed=()):
    """Send SIGTERM at a step of the last gang, go on, and compare the end; return what the first run told."""
    waits = [1, len(killed), step]
    process = subprocess.Popen(
        command(folder, "-n", "2", "--grace", GRACE, *options, waits=waits, killed=killed),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = []
    for line in process.stdout:
        told.append(line)
        if line == f"[1] step {step}\n":
            process.send_signal(signal.SIGTERM)
            (folder / "go").touch()
            break
    out, err = process.communicate(timeout=900)
    assert process.returncode == 75, err[-4000:]
    last = steps_of("".join(told) + out)[-1]
    assert f"[0] kparallel: SIGTERM came: training ends after step {last % 5 + 1} of epoch {last // 5}" in err
    again = run(folder, "-n", "2")
    assert steps_of(again.stdout) == list(range(last + 1, 20))
    assert_same(folder, want)
    return err


@pytest.mark.full
def test_sigterm_on_one_machine(tmp_path):
    run(tmp_path / "whole")
    folder = tmp_path / "parts"
    process = subprocess.Popen(
        command(folder, "--grace", GRACE, waits=[0, 0, 7]),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line == "step 7\n":
            process.send_signal(signal.SIGTERM)
            (folder / "go").touch()
            break
    _, err = process.communicate(timeout=900)
    assert process.returncode == 75 and "training ends after step" in err, err[-4000:]
    done = run(folder)
    assert done.stdout.splitlines()[-1] == "step 19" and len(done.stdout.splitlines()) <= 12
    assert_same(folder, saved(tmp_path / "whole", 0), workers=1)
