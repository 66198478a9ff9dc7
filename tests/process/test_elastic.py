"""Runs whose number of workers changes: with the launcher and light processes, and with a training as a whole."""

import json
import subprocess
import sys

import numpy as np
import pytest

from kparallel.launcher.local import free_addresses
from tests.process.light_gang import COUNT, ELASTIC
from tests.processes import ENVIRONMENT


def count(tmp_path, sizes, restarts, *fates):
    """Run six steps; return the exit code and what was told: the gangs, and what the launcher said."""
    script = tmp_path / "script.py"
    script.write_text(COUNT)
    most = sizes.rpartition(":")[2]
    arguments = [sizes, str(restarts), str(script), str(tmp_path), most, repr(list(fates))]
    done = subprocess.run([sys.executable, "-c", ELASTIC, *arguments], capture_output=True, text=True, timeout=180)
    lines = [line.removeprefix("[0] ") for line in done.stdout.splitlines() if not line.startswith(("[1]", "[2]"))]
    assert "Traceback" not in done.stderr or "a fault" in done.stderr, done.stderr
    return done.returncode, lines


def test_a_run_goes_on_with_fewer_and_with_more_again(tmp_path):
    code, lines = count(tmp_path, "2:3", 0, (1, 0, 2, "kill()"))
    assert code == 0 and lines == [
        "gang 0 of 3 from 0",
        "worker 1 was ended by SIGKILL; 2 workers go on from step 2 of epoch 0",
        "gang 1 of 2 from 2",
        "lost workers are started again; 3 workers go on from step 3 of epoch 0",
        "gang 2 of 3 from 3",
        "ENDING 0 ",
    ]


def test_a_run_ends_with_the_cause_where_too_few_are_left(tmp_path):
    code, lines = count(tmp_path, "2:3", 0, (1, 0, 1, "kill()"), (0, 1, 1, "kill()"))
    assert code == 137 and lines[-2:] == ["gang 1 of 2 from 1", "ENDING 137 worker 0 was ended by SIGKILL"]


def test_a_restart_starts_a_worker_again_where_too_few_are_left(tmp_path):
    code, lines = count(tmp_path, "2:3", 1, (1, 0, 1, "kill()"), (0, 1, 1, "kill()"))
    assert code == 0 and lines[3:6] == [
        "worker 0 was ended by SIGKILL; restart 1 of 1",
        "gang 2 of 2 from 1",
        "lost workers are started again; 3 workers go on from step 2 of epoch 0",
    ]


def test_workers_that_are_killed_at_once_each_time_do_not_start_for_ever(tmp_path):
    code, lines = count(tmp_path, "1:3", 0, (0, "each", 0, "kill()"))
    anew = "as no kparallel.callbacks.Checkpoint has written a checkpoint yet"
    assert code == 137 and lines == [
        "gang 0 of 3 from 0",
        f"worker 0 was ended by SIGKILL; 2 workers start anew, {anew}",
        "gang 1 of 2 from 0",
        f"worker 0 was ended by SIGKILL; 1 worker starts anew, {anew}",
        "gang 2 of 1 from 0",
        "ENDING 137 worker 0 was ended by SIGKILL",
    ]


def test_a_fault_of_the_script_is_no_loss(tmp_path):
    code, lines = count(tmp_path, "1:2", 1, (1, "each", 1, "raise ValueError('a fault')"))
    assert code == 1 and lines == [
        "gang 0 of 2 from 0",
        "worker 1 failed with exit code 1; restart 1 of 1",
        "gang 1 of 2 from 1",
        "ENDING 1 worker 1 failed with exit code 1",
    ]


def test_a_frozen_worker_is_a_loss(tmp_path):
    lost = "from kparallel.errors import WorkerError; raise WorkerError('Lost worker 1, a fault')"
    code, lines = count(tmp_path, "1:2", 0, (0, 0, 3, lost))
    assert code == 0 and "worker 1 did not respond any more; 1 worker goes on from step 3 of epoch 0" in lines


def test_a_worker_that_is_told_to_leave_is_a_loss(tmp_path):
    code, lines = count(tmp_path, "1:2", 0, (0, 0, 3, "left.touch(); sys.exit(75)"))
    assert code == 0 and lines[2:4] == [
        "gang 1 of 1 from 3",
        "lost workers are started again; 2 workers go on from step 4 of epoch 0",
    ]


@pytest.mark.parametrize(
    ("sizes", "part"),
    [
        ("4:2", "expected MIN:MAX with MIN not above MAX, received '4:2'; write 2:4."),
        ("0:2", "expected at least 1 worker, received '0:2'."),
        ("0", "expected at least 1 worker, received '0'."),
        ("2:", "expected a number of workers such as 4, or MIN:MAX such as 2:4, received '2:'."),
        ("two", "received 'two'."),
    ],
)
def test_wrong_sizes_are_named(sizes, part):
    command = [sys.executable, "-m", "kparallel", "run", "-n", sizes, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 2 and part in " ".join(done.stderr.split()), done.stderr


# Trains on arrays that are shuffled, a dataset, and a `PyDataset`; kills a worker where the test says so.
TRAIN = """
import json, os, pathlib, random, signal, sys, time
import keras, numpy as np, tensorflow as tf
import kparallel
from kparallel.data.shuffled import ShuffledArrays
from kparallel.launcher_pipes import leave_is_asked

folder, kinds, killed = pathlib.Path(sys.argv[1]), sys.argv[2].split(","), json.loads(sys.argv[3])
grows = [[kind, gang + 1] for kind, gang, step in killed]
plain = "KPARALLEL_LAUNCHER" not in os.environ
cluster = json.loads(os.environ.get("TF_CONFIG", '{"cluster": {"worker": [""]}, "task": {"index": 0}}'))
index, workers = cluster["task"]["index"], len(cluster["cluster"]["worker"])
keras.config.set_floatx("float64")
keras.utils.set_random_seed(1)
x = np.random.default_rng(0).normal(size=(90, 4))
y = x[:, :1] * x[:, 1:2]

class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]

# Gives plain Keras the rows in the order in which `kparallel run` deals them.
class Order(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        rows = {"x": x, "y": y, "sample_weight": None, "batch_size": 8, "shuffle": True}
        self.x = ShuffledArrays(rows | {"class_weight": None, "steps_per_epoch": None}, random.getrandbits(31))

    def on_epoch_begin(self, epoch, logs=None):
        self.x.epoch = epoch

DATA = {
    "arrays": lambda: {"x": x, "y": y, "batch_size": 8},
    "dataset": lambda: {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(90, seed=3).batch(8)},
    "PyDataset": lambda: {"x": Batches()},
}

class Fate(keras.callbacks.Callback):
    steps = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        place = [kind, int(os.environ.get("KPARALLEL_RESTARTS", 0)), 12 * self.epoch + batch]
        print(kind, "step", place[-1], "of", workers, flush=True)
        if index == 1 and place in killed:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        while index == 0 and self.steps == 3 and place[:2] in grows and not leave_is_asked():
            time.sleep(0.01)  # A checkpoint is being written, and then the launcher asks.

state = []
for kind in kinds:
    layers = [keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model = model if plain else kparallel.wrap(model)
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    data, callbacks = DATA[kind](), [Fate()]
    if not plain:
        callbacks.append(kparallel.callbacks.Checkpoint(folder / kind, every_steps=2))
    elif kind == "arrays":
        callbacks.append(Order())
        data = {"x": callbacks[-1].x, "shuffle": False}
    history = model.fit(**data, epochs=2, verbose=0, callbacks=callbacks).history
    state += [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables), *map(np.array, history.values())]
np.savez(folder / f"{index}.npz", *state)
"""


def train(folder, sizes, kinds, *killed):
    """Train, without sizes in plain Keras; return what worker 0 has saved, and what was told."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(TRAIN)
    launcher = ["-m", "kparallel", "run", "-n", sizes] if sizes else []
    command = [sys.executable, *launcher, script, folder, ",".join(kinds)]
    done = subprocess.run([*command, json.dumps(killed)], env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-6000:]
    saved = np.load(folder / "0.npz")
    return [saved[key] for key in saved.files], done


def train_on_two_launchers(folder, kinds, *killed):
    """Train over two launchers on addresses of one machine; return what worker 0 has saved, and what host 0 told."""
    folder.mkdir()
    (folder / "script.py").write_text(TRAIN)
    launcher = [
        sys.executable,
        "-m",
        "kparallel",
        "run",
        "-n",
        "1:2",
        "--hosts",
        ",".join(free_addresses(2)),
        "--index",
    ]
    script = [folder / "script.py", folder, ",".join(kinds), json.dumps(killed)]
    options = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen([*launcher, str(index), *script], **options) for index in range(2)]
    told = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    saved = np.load(folder / "0.npz")
    return [saved[key] for key in saved.files], told[0]


@pytest.mark.full
def test_a_training_over_two_launchers_equals_plain_keras(tmp_path):
    got, told = train_on_two_launchers(tmp_path / "elastic", ["arrays"], ["arrays", 0, 3])
    assert "kparallel: worker 1 was ended by SIGKILL; 1 worker goes on from step" in told
    assert "kparallel: more hosts are there; 2 workers go on from step" in told
    want, _ = train(tmp_path / "plain", "", ["arrays"])
    for number, (one, other) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-8, err_msg=str(number))


def assert_trained_as_one(tmp_path, sizes, kinds, *killed):
    """Train with sizes that change and on one device; compare; return the number of workers of each step."""
    got, done = train(tmp_path / "elastic", sizes, kinds, *killed)
    want, _ = train(tmp_path / "plain", "", kinds)
    assert len(got) == len(want)
    for number, (one, other) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-8, err_msg=str(number))
    # A gang of one worker has no prefix before its lines.
    told = [line.split()[-5:] for line in done.stdout.splitlines() if line.startswith("[0]") or line[0] != "["]
    return [[kind, int(step), int(workers)] for kind, _, step, _, workers in told]


def test_a_training_on_three_then_two_then_three_workers_equals_plain_keras(tmp_path):
    steps = assert_trained_as_one(tmp_path, "2:3", ["arrays"], ["arrays", 0, 3])
    numbers = [workers for _, _, workers in steps]
    changes = [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1]]
    assert [numbers[0], *(numbers[at] for at in changes)] == [3, 2, 3]
    places = [step for _, step, _ in steps]
    assert [place % 12 > 0 for place in (places[at] for at in changes)] == [True, True]  # Each within an epoch.
    # But for those behind the last checkpoint before the kill, each step is trained once.
    assert places[changes[0] :] == list(range(places[changes[0]], 24)) and places[changes[0]] in (2, 4)


@pytest.mark.full
@pytest.mark.parametrize("sizes", ["1:2", "2:3"])
def test_every_kind_of_data_goes_on_where_it_stood(tmp_path, sizes):
    kinds = ["arrays", "dataset", "PyDataset"]
    assert_trained_as_one(tmp_path, sizes, kinds, *([kind, 2 * number, 3] for number, kind in enumerate(kinds)))
