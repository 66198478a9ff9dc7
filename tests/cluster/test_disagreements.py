"""Workers that differ, and errors on one worker: all workers stop with an error that says so, none waits for ever."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import disagreements
from tests.cluster.outcomes import Outcome, cases
from tests.processes import ENVIRONMENT

SCRIPT = Path(__file__).parent / "run_disagreements.py"
CASES = cases(disagreements)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each of two workers came to, case by case."""
    folder = tmp_path_factory.mktemp("disagreements")
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--devices-per-worker", "2"]
    command = [*gang, "--timeout", "60", "--heartbeat", "20", SCRIPT, folder]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    return [json.loads((folder / f"{worker}.json").read_text()) for worker in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_both_workers_come_to_what_the_case_expects(outcomes, name):
    each = [Outcome(*worker[name]) for worker in outcomes]
    assert CASES[name].check(*each), each
