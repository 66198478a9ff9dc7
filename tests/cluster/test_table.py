"""The single-machine table on two workers, and what workers must agree on: equal to plain Keras on each worker."""

import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kparallel.compat.data import shuffles_by_epoch
from tests.cluster.table import RUNS, SHARDED, every_row_once
from tests.equality.cases import CASES
from tests.equality.tolerances import FLOAT64, tolerance
from tests.processes import ENVIRONMENT

TABLE = Path(__file__).parent / "table.py"


# Of the single-machine table the default run takes the features that need the other workers; `full` has the others.
CHOSEN = ["own_call", "adamw", "accumulation_with_clipping", "ema_and_executions", "metrics", "synchronized"]
CHOSEN += ["mixed_float16", "sparse_inputs"]
CHOSEN += [name for name in RUNS if name not in CASES]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What plain Keras and two workers made of the chosen cases."""
    return outcomes(tmp_path_factory.mktemp("table"), CHOSEN, timeout=900)


@pytest.fixture(scope="module")
def rest(request, tmp_path_factory):
    """What they made of the others."""
    return outcomes(tmp_path_factory.mktemp("rest"), selected(request), timeout=1200)


@pytest.fixture(scope="module")
def sharded(request, tmp_path_factory):
    """What they made of the single-machine table with the optimizer shared out."""
    return outcomes(tmp_path_factory.mktemp("sharded"), selected(request), timeout=1800, shard="optimizer")


@pytest.fixture(scope="module")
def weights_shared(request, tmp_path_factory):
    """What they made of it with the weights shared out."""
    return outcomes(tmp_path_factory.mktemp("weights"), selected(request), timeout=1800, shard="weights")


def selected(request):
    """The cases of those tests that run and ask for this fixture: `-k` takes a part of a long table."""
    items = [item for item in request.session.items if request.fixturename in item.fixturenames]
    return sorted({item.callspec.params["name"] for item in items})


def outcomes(folder, names, timeout, **options):
    # A short heartbeat: should one worker alone raise, the other is not to wait for it long.
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--timeout", "60", "--heartbeat", "20"]
    runs = [[sys.executable, TABLE, folder, *names], [*gang, TABLE, folder, *names]]
    environment = ENVIRONMENT | {name.upper(): value for name, value in options.items()}
    processes = [
        subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for run in runs
    ]
    try:
        for process in processes:
            out, _ = process.communicate(timeout=timeout)
            assert process.returncode == 0, out.decode()[-6000:]
    finally:
        for process in processes:
            process.terminate()
    return {who: pickle.loads((folder / f"{who}.pkl").read_bytes()) for who in ("plain", "0", "1")}


@pytest.mark.parametrize("worker", ["0", "1"])
@pytest.mark.parametrize("name", [name for name in CHOSEN if name != every_row_once.__name__])
def test_each_worker_equals_plain_keras(results, name, worker):
    check(results, name, worker)


@pytest.mark.full
@pytest.mark.parametrize("worker", ["0", "1"])
@pytest.mark.parametrize("name", [name for name in RUNS if name not in CHOSEN])
def test_each_worker_equals_plain_keras_in_the_other_cases(rest, name, worker):
    check(rest, name, worker)


@pytest.mark.full
@pytest.mark.parametrize("worker", ["0", "1"])
@pytest.mark.parametrize("name", SHARDED)
def test_each_worker_equals_plain_keras_with_the_optimizer_shared_out(sharded, name, worker):
    check(sharded, name, worker)


@pytest.mark.full
@pytest.mark.parametrize("worker", ["0", "1"])
@pytest.mark.parametrize("name", [name for name in SHARDED if CASES[name].cut])  # The weights of a graph's stages.
def test_each_worker_equals_plain_keras_with_the_weights_shared_out(weights_shared, name, worker):
    check(weights_shared, name, worker)


def check(results, name, worker):
    got, want = results[worker][name], results["plain"][name]
    assert "error" not in want and len(keras.tree.flatten(want)) > 2, want
    assert "error" not in got, got["error"]
    keras.tree.assert_same_structure(got, want)
    policy = (CASES[name].policy or "float64") if name in CASES else "float64"
    limit = tolerance(name, policy) if name in CASES else FLOAT64
    for one, other in zip(keras.tree.flatten(got), keras.tree.flatten(want), strict=True):
        bound = limit * np.maximum(1.0, np.abs(np.asarray(other, "float64")))
        assert np.all(np.abs(np.asarray(one, "float64") - other) <= bound)


def test_shuffled_rows_are_trained_once_an_epoch(results):
    """A row of a batch of three weighs a third, one of the last batch's two a half."""
    first, second = (results[worker][every_row_once.__name__]["counts"] for worker in ("0", "1"))
    np.testing.assert_array_equal(first, second)
    for counts in (first[0], first[1] - first[0]):
        values = sorted(np.round(counts, 9))
        np.testing.assert_allclose(values, [1 / 3] * 18 + [1 / 2] * 2, atol=1e-8)
    if shuffles_by_epoch():  # Each call of `fit` has the order of epoch 0 then: that of plain Keras.
        np.testing.assert_allclose(first, results["plain"][every_row_once.__name__]["counts"], atol=FLOAT64)
        return
    assert (np.argsort(first[0], stable=True) != np.argsort(first[1] - first[0], stable=True)).any()
