"""An error in a step that the script catches: what is called next goes on, as on one device."""

import subprocess
import sys

import pytest

from tests.choice import some
from tests.processes import ENVIRONMENT

SCRIPT = """
import json, os, sys
import keras, numpy as np, kparallel

keras.config.set_floatx("float64")
x = np.random.default_rng(0).normal(size=(16, 4))
labels = np.arange(16) % 3
wrong = labels.copy()
wrong[slice(None) if sys.argv[1] == "all" else -1] = 9  # Out of range, in the rows of all workers or of the last.

def net(wrap):
    keras.utils.set_random_seed(1)
    model = wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return model

def work(wrap):
    one, other = net(wrap), net(wrap)
    numbers = other.fit(x, labels, batch_size=8, verbose=0, shuffle=False).history["loss"]
    for attempt in range(2):
        try:
            one.fit(x, wrong, batch_size=16, verbose=0, shuffle=False)
        except Exception as error:
            print("caught", attempt, type(error).__name__)
        numbers += one.fit(x, labels, batch_size=8, epochs=2, verbose=0, shuffle=False).history["loss"]
        numbers += [one.evaluate(x, labels, verbose=0), *one.predict(x, verbose=0).flat]
        numbers += other.fit(x, labels, batch_size=8, verbose=0, shuffle=False).history["loss"]
    numbers += net(wrap).fit(x, labels, batch_size=8, verbose=0, shuffle=False).history["loss"]
    return np.array([*numbers, *(value for model in (one, other) for w in model.variables for value in w.numpy().flat)])

difference = np.abs(work(kparallel.wrap) - work(lambda model: model)).max()
print("off by", difference)
assert difference <= 1e-9
"""


def run(tmp_path, where, **environment):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = ENVIRONMENT | environment
    command = [sys.executable, "-m", "kparallel", "run", "-n", "2", script, where]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("where", some(["all", "one"], "all"))
def test_workers_train_on_after_an_error_that_all_scripts_catch(tmp_path, where):
    done = run(tmp_path, where)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    for index in (0, 1):
        # Twice each: in the cluster, then alone.
        assert sum(line.startswith(f"[{index}] caught") for line in lines) == 4, lines
