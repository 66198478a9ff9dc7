"""Steps of one's own on two workers: equal to plain Keras on each."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.equality.measure import differences
from tests.equality.tolerances import FLOAT64
from tests.ownstep.programs import PROGRAMS
from tests.ownstep.workers import LOOPS
from tests.processes import ENVIRONMENT

SCRIPT = Path(__file__).parent / "workers.py"
# One of each kind of exchange: gradients and metrics, second derivatives, rows, what no tape gave.
CHOSEN = ["inherited", "adversaries", "rows_against_all", "by_hand"]
CHOSEN += ["loop", "own_rows"]  # And what is no `fit` of a whole dataset.
CHOSEN += ["resumed", "resumed_sized", "resumed_shards"]  # And what goes on in a second one.
CHOSEN += ["shared_out:guide", "shared_weights:adversaries", *LOOPS]  # And what the workers share out.
REST = [name for name in PROGRAMS if name not in CHOSEN]
# Weights that the step assigns, rows that it gathers, a loss that reads weights, and what goes on in a second start.
REST += [
    f"shared_weights:{name}" for name in ("sharpness_aware", "inherited", "rows_against_all", "by_hand", "penalized")
]
REST += ["resumed_weights"]


def run(folder, names):
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--timeout", "60", "--heartbeat", "20"]
    for command in ([sys.executable], gang):
        done = subprocess.run(
            [*command, SCRIPT, folder, *names], env=ENVIRONMENT, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {who: pickle.loads((folder / f"{who}.pkl").read_bytes()) for who in ("plain", "0", "1")}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What plain Keras and two workers made of the chosen programs."""
    return run(tmp_path_factory.mktemp("chosen"), CHOSEN)


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    """What they made of the others."""
    return run(tmp_path_factory.mktemp("rest"), REST)


def check(results, name):
    for worker in ("0", "1"):
        found = differences(results[worker][name], results["plain"][name])
        far = {entry: difference for entry, difference in found.items() if not difference <= FLOAT64}
        assert not far, worker


@pytest.mark.parametrize("name", CHOSEN)
def test_two_workers_equal_one_device(results, name):
    check(results, name)


@pytest.mark.full
@pytest.mark.parametrize("name", REST)
def test_two_workers_equal_one_device_in_the_other_programs(rest, name):
    check(rest, name)
