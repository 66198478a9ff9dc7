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


# What three workers add: nine, thirteen and one row do not divide by them, nor does a batch of five.
THREE = ["adam", "mask", "by_hand"]


def work(folder, *command):
    run = subprocess.run(
        [sys.executable, *command[:-1], HERE / "work.py", folder, *command[-1]],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run all cases once with plain Keras, once on two workers with two devices each."""
    folder = tmp_path_factory.mktemp("numbers")
    work(folder, [])
    work(folder, "-m", "kparallel", "run", "-n", "2", "--devices-per-worker", "2", "--timeout", "60", [])
    return folder


@pytest.fixture(scope="module")
def folder_of_three(folder, tmp_path_factory):
    """Run some cases on three workers."""
    three = tmp_path_factory.mktemp("numbers_of_three")
    work(three, "-m", "kparallel", "run", "-n", "3", "--timeout", "60", THREE)
    return three


def assert_equal(name, got, want, who):
    assert sorted(got.files) == sorted(want.files)
    for key in want.files:
        if name == "records" and key == "slot0":
            continue  # Shards of unequal files take more steps, of fewer rows each.
        np.testing.assert_allclose(
            got[key], want[key], rtol=0, atol=CASES[name].tolerance, err_msg=f"worker {who}, {key}"
        )


@pytest.mark.parametrize("name", CASES)
def test_two_workers_equal_one_device(folder, name):
    want = np.load(folder / f"{name}.plain.npz")
    assert len(want.files) > 3
    for worker in (0, 1):
        assert_equal(name, np.load(folder / f"{name}.worker{worker}.npz"), want, worker)


@pytest.mark.parametrize("name", THREE)
def test_three_workers_equal_one_device(folder, folder_of_three, name):
    want = np.load(folder / f"{name}.plain.npz")
    for worker in (0, 1, 2):
        assert_equal(name, np.load(folder_of_three / f"{name}.worker{worker}.npz"), want, worker)
