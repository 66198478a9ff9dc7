"""The law in a cluster: real processes on loopback, each worker's numbers equal to one device's."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kparallel.launcher.local import free_addresses
from tests.cluster.cases import CASES
from tests.processes import ENVIRONMENT

HERE = Path(__file__).parent


# The table on two workers has these, or their like; here `full` takes them on two devices of each worker.
IN_FULL = ["adam", "clipnorm", "ema", "sample_weight", "normed", "steps_per_execution", "dice", "mixed_float16"]
IN_FULL += ["momentum_validation", "generator", "dicts", "pipeline", "global_clipnorm", "dataset"]
IN_FULL += ["sharded_by_hand", "sharded_average", "sharded_scaled", "sharded_several", "sharded_accumulation"]
IN_FULL += ["weights_average", "weights_scaled", "weights_accumulation", "weights_traced"]
IN_FULL += ["weights_split", "weights_gpipe", "weights_in_denominators", "weights_backwards", "weights_whole_batch"]
IN_FULL += ["weights_pipeline"]
CHOSEN = [name for name in CASES if name not in IN_FULL]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The numbers of the chosen cases."""
    return run_both(tmp_path_factory.mktemp("numbers"), CHOSEN)


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    """The numbers of the others."""
    return run_both(tmp_path_factory.mktemp("rest"), IN_FULL)


def run_both(folder, names):
    """Run cases once with plain Keras, once on two workers with two devices each."""
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--devices-per-worker", "2", "--timeout", "60"]
    for command in ([sys.executable], gang):
        run = subprocess.run(
            [*command, HERE / "work.py", folder, *names], env=ENVIRONMENT, capture_output=True, text=True, timeout=900
        )
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    return folder


def run_hosts(folder, *names):
    """Run cases on three workers, each with an address and a launcher of its own, as three machines would."""
    ports = [address.rpartition(":")[2] for address in free_addresses(3)]
    hosts = ",".join(f"127.0.0.{number + 1}:{port}" for number, port in enumerate(ports))
    command = [sys.executable, "-m", "kparallel", "run", "--timeout", "60", "--hosts", hosts]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    workers = [
        subprocess.Popen([*command, "--index", str(i), HERE / "work.py", folder, *names], env=ENVIRONMENT, **streams)
        for i in range(3)
    ]
    try:
        for worker in workers:
            out, _ = worker.communicate(timeout=900)
            assert worker.returncode == 0, out[-6000:]
    finally:
        for worker in workers:
            worker.terminate()


def test_three_hosts_equal_one_device(folder, tmp_path):
    names = ("mask", "by_hand")
    run_hosts(tmp_path, *names)
    for name in names:
        compare(tmp_path, folder, name, workers=3)


def test_tensorflows_collectives_equal_one_device(folder, tmp_path):
    names = ("mask", "compressed", "sharded", "weights_in_turn")
    choice = {"KPARALLEL_COLLECTIVES": "tensorflow", "CARRIER": "TFCommunicator"}
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--timeout", "60", HERE / "work.py", tmp_path, *names]
    done = subprocess.run(gang, env=ENVIRONMENT | choice, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    for name in names:
        compare(tmp_path, folder, name, workers=2)


@pytest.mark.parametrize("name", CHOSEN)
def test_two_workers_equal_one_device(folder, name):
    compare(folder, folder, name, workers=2)


@pytest.mark.full
@pytest.mark.parametrize("name", IN_FULL)
def test_two_workers_equal_one_device_in_the_other_cases(rest, name):
    compare(rest, rest, name, workers=2)


@pytest.mark.full
def test_three_hosts_equal_one_device_where_shares_have_fewer_microbatches_than_others(rest, tmp_path):
    names = ("weights_split", "weights_gpipe", "weights_in_denominators", "weights_backwards")
    run_hosts(tmp_path, *names)
    for name in names:
        compare(tmp_path, rest, name, workers=3)


def test_compressed_gradients_were_rounded_alike_on_both_workers(folder):
    plain, *workers = (np.load(folder / f"compressed.{who}.npz")["weight0"] for who in ("plain", "worker0", "worker1"))
    assert np.abs(workers[0] - plain).max() > 1e-6  # float64 alone stays below 1e-9.
    np.testing.assert_array_equal(*workers)


def compare(folder, plain, name, workers):
    want = np.load(plain / f"{name}.plain.npz")
    assert len(want.files) > 3
    for worker in range(workers):
        got = np.load(folder / f"{name}.worker{worker}.npz")
        assert sorted(got.files) == sorted(want.files)
        tolerance = CASES[name].tolerance
        for key in set(want.files) - set(CASES[name].unequal):
            np.testing.assert_allclose(got[key], want[key], rtol=0, atol=tolerance, err_msg=f"worker {worker}, {key}")
