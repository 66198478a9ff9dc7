"""A worker whose script ends while the others train: they are told at once, not when its heartbeat is missed."""

import subprocess
import sys

import pytest

from tests.choice import some
from tests.processes import ENVIRONMENT

SCRIPT = """
import json, os, sys
import keras, numpy as np, kparallel

index, when = json.loads(os.environ["TF_CONFIG"])["task"]["index"], sys.argv[1]
if index == 1 and when == "before wrap":
    sys.exit(0)
model = kparallel.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
model.compile("sgd", "mse")
x = np.ones((16, 4), "float32")
model.fit(x, x[:, :1], batch_size=8, verbose=0)
if index == 1 and when in ("between fits", "while the chief works on"):
    sys.exit(0)
if when == "while the chief works on":
    import time
    time.sleep(4)
    print("done", index)
else:
    model.fit(x, x[:, :1], batch_size=8, verbose=0)
"""


def run(tmp_path, when):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--heartbeat", "600", script, when]
    # In less than the heartbeat.
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=450)


@pytest.mark.parametrize("when", some(["before wrap", "between fits"], "before wrap"))
def test_a_worker_whose_script_ends_is_named_at_once(tmp_path, when):
    done = run(tmp_path, when)
    assert done.returncode == 1, done.stderr[-4000:]
    assert "Lost worker 1 (127.0.0.1:" in done.stderr.splitlines()[-1], done.stderr[-4000:]
    # Where TensorFlow asks the worker's closed port first, it knows no more than that.
    told = "whose script has ended without an error, as by sys.exit(0)" in done.stderr
    assert told or (when == "between fits" and "was killed, or its script has ended" in done.stderr)


def test_a_worker_may_end_while_another_works_on_alone(tmp_path):
    done = run(tmp_path, "while the chief works on")
    assert done.returncode == 0 and "[0] done 0" in done.stdout, done.stderr[-4000:]
