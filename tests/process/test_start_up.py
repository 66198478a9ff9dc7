"""Joining a cluster: in time, too late, without a peer; and workers lost on the way. Each in processes of its own."""

import subprocess
import sys

import pytest

from kparallel.cluster import Cluster
from kparallel.launcher.local import free_addresses
from tests.choice import some
from tests.processes import ENVIRONMENT

HEARTBEAT = 60  # Seconds, by default.

# Collectives of no kind, a peer that never comes, then a program that forgets to join or joins too late.
ALONE = """
import os, time
import kparallel
from kparallel import errors

def caught(call, kind):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(call)

os.environ["KPARALLEL_COLLECTIVES"] = "gloo"
text = caught(kparallel.init, errors.ClusterError)
assert "Expected KPARALLEL_COLLECTIVES to be one of auto, tensorflow, received 'gloo'." in text, text
del os.environ["KPARALLEL_COLLECTIVES"]

start = time.monotonic()
text = caught(lambda: kparallel.init(timeout=2), errors.WorkerError)
assert f"waited 2 s for worker 1 ({os.environ['PEER']})" in text, text
assert 2 <= time.monotonic() - start < 150  # The default timeout has 300 s.

import keras
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
for call in (kparallel.wrap, kparallel.plan):
    assert "`kparallel.init()`" in caught(lambda: call(model), errors.ClusterError)
assert "first thing" in caught(kparallel.init, errors.ClusterError)
del os.environ["TF_CONFIG"]
kparallel.init()
kparallel.wrap(model)
"""

# Two workers that train until something happens to one of them, by default worker 1.
TRAIN = """
import json, os, signal, sys, time
import keras, numpy as np, kparallel
kparallel.init()  # The launcher did it: nothing happens.
index, fate = json.loads(os.environ["TF_CONFIG"])["task"]["index"], sys.argv[1]
its = int((sys.argv[2:] or [1])[0])

class Fate(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and index == its:
            print("NOW", time.time(), flush=True)
            if fate == "raises":
                os._exit(5)
            os.kill(os.getpid(), getattr(signal, fate))

model = kparallel.wrap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
model.compile("sgd", "mse")
rows = np.ones((8, 3))
try:
    model.fit(rows, rows[:, :1], batch_size=4, epochs=10**6, verbose=0, callbacks=[Fate()])
except Exception as error:
    print("RAISED", time.time(), flush=True)
    if fate != "SIGSTOP":
        signal.pause()  # The launcher is to report who failed first; it ends this one.
    raise
"""


def environment(cluster=None, **others):
    own = {} if cluster is None else {"TF_CONFIG": cluster.to_tf_config()}
    return {**ENVIRONMENT, **own, **others}


def test_unknown_collectives_an_absent_peer_and_a_late_start():
    addresses = free_addresses(2)
    surroundings = environment(Cluster(addresses, 0), PEER=addresses[1])
    done = subprocess.run([sys.executable, "-c", ALONE], env=surroundings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def run(script, *arguments, options=(), timeout=300):
    command = [sys.executable, "-m", "kparallel", "run", "-n", "2", *options, str(script), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)


@pytest.mark.full  # `test_launcher.py` shows it with light processes.
def test_the_launcher_reports_who_failed_first(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TRAIN)
    done = run(script, "raises")
    assert done.returncode == 5, done.stderr
    assert done.stderr.endswith("kparallel: worker 1 failed with exit code 5\n"), done.stderr


def test_survivors_of_a_killed_worker_name_it():
    addresses = free_addresses(2)
    command = [sys.executable, "-c", TRAIN.replace("signal.pause()", "raise"), "SIGKILL"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, env=environment(Cluster(addresses, i)), **streams) for i in range(2)]
    try:
        (out, err), (killed, _) = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [1, -9], err
    assert f"WorkerError: Lost worker 1 ({addresses[1]}), which hung up" in err.strip().splitlines()[-1], err
    assert float(out.split()[-1]) - float(killed.split()[-1]) < HEARTBEAT


# A step that fails on worker 1 alone, which then lives on.
FAILS = """
import json, os, signal
import keras, numpy as np, tensorflow as tf, kparallel
kparallel.init()
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

class Faulty(keras.layers.Layer):
    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_sum(x), 100.0 - 90.0 * index)]):
            return tf.identity(x)

model = kparallel.wrap(keras.Sequential([keras.Input((3,)), Faulty(), keras.layers.Dense(1)]))
model.compile("sgd", "mse")
try:
    model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=8, verbose=0)
except Exception as error:
    print(type(error).__name__, flush=True)
    if index == 0:
        raise
    signal.pause()
"""


def test_a_step_that_fails_on_one_worker_does_not_keep_the_others_waiting(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAILS)
    done = run(script, options=["--grace", "2"], timeout=270)
    assert done.returncode == 1 and "[1] InvalidArgumentError" in done.stdout, done.stderr
    assert "WorkerError: Lost worker 1" in done.stderr, done.stderr


@pytest.mark.parametrize("worker", some([0, 1], 1))
def test_a_frozen_worker_is_named_within_the_heartbeat(tmp_path, worker):
    script = tmp_path / "script.py"
    script.write_text(TRAIN)
    done = run(script, "SIGSTOP", str(worker), options=["--heartbeat", "8", "--grace", "2"])
    assert done.returncode == 1, done.stderr
    last = done.stderr[done.stderr.index(f"kparallel: worker {1 - worker} failed") :]
    assert f"WorkerError: Lost worker {worker} (127.0.0.1:" in last and "frozen" in last, last
    times = {line.split()[1]: float(line.split()[2]) for line in done.stdout.splitlines() if line.split()[1].isupper()}
    assert times["RAISED"] - times["NOW"] < HEARTBEAT, times


# The chief freezes while it reads its fourth batch; the other one waits for it inside the step.
FREEZES = """
import json, os, signal
import keras, numpy as np, tensorflow as tf, kparallel
kparallel.init()
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

def read():
    for number in range(6):
        if number == 3 and index == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        yield np.ones((8, 3)), np.ones((8, 1))

shapes = tf.TensorSpec([8, 3]), tf.TensorSpec([8, 1])
data = tf.data.Dataset.from_generator(read, output_signature=shapes).apply(tf.data.experimental.assert_cardinality(6))
model = kparallel.wrap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
model.compile("sgd", "mse")
model.fit(data, verbose=0)
"""


@pytest.mark.full
def test_a_chief_that_freezes_in_a_step_is_named(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FREEZES)
    done = run(script, options=["--heartbeat", "8", "--grace", "2"])
    assert done.returncode == 1, done.stderr
    last = done.stderr[done.stderr.index("kparallel: worker 1 failed") :]
    assert "WorkerError: Lost worker 0 (127.0.0.1:" in last and "frozen" in last, last
