"""Steps of one's own on two workers: equal to plain Keras on each."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.equality.measure import differences
from tests.equality.tolerances import FLOAT64
from tests.ownstep.programs import PROGRAMS

SCRIPT = Path(__file__).parent / "workers.py"
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# One of each kind of exchange: gradients and metrics, rows, second derivatives, lookups, what no tape gave.
CHOSEN = ["inherited", "adversaries", "momentum_contrast", "all_against_all", "sharpness_aware", "masked_language"]
CHOSEN += ["reconstruction", "by_hand", "loop"]


def run(folder, names):
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--timeout", "60", "--heartbeat", "20"]
    for command in ([sys.executable], gang):
        done = subprocess.run(
            [*command, SCRIPT, folder, *names], env=ENVIRONMENT, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {who: pickle.loads((folder / f"{who}.pkl").read_bytes()) for who in ("plain", "0", "1")}


def check(results):
    for name, want in results["plain"].items():
        for worker in ("0", "1"):
            found = differences(results[worker][name], want)
            far = {entry: difference for entry, difference in found.items() if not difference <= FLOAT64}
            assert not far, (name, worker)


def test_two_workers_equal_one_device(tmp_path):
    results = run(tmp_path, CHOSEN)
    assert set(results["0"]) == set(CHOSEN)
    check(results)


@pytest.mark.full
def test_all_programs_on_two_workers(tmp_path):
    check(run(tmp_path, [*PROGRAMS, "loop"]))
