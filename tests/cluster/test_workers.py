"""The law in a cluster: real processes on loopback, each worker's numbers equal to one device's."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.cases import CASES

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run all cases once with plain Keras, once on two workers with two devices each."""
    folder = tmp_path_factory.mktemp("numbers")
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--devices-per-worker", "2", "--timeout", "60"]
    for command in ([sys.executable], gang):
        run = subprocess.run(
            [*command, HERE / "work.py", folder], env=ENVIRONMENT, capture_output=True, text=True, timeout=400
        )
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_workers_equal_one_device(folder, name):
    want = np.load(folder / f"{name}.plain.npz")
    assert len(want.files) > 3
    for worker in (0, 1):
        got = np.load(folder / f"{name}.worker{worker}.npz")
        assert sorted(got.files) == sorted(want.files)
        for key in want.files:
            if name == "records" and key == "slot0":
                continue  # Shards of unequal files take more steps, of fewer rows each.
            tolerance = CASES[name].tolerance
            np.testing.assert_allclose(got[key], want[key], rtol=0, atol=tolerance, err_msg=f"worker {worker}, {key}")
