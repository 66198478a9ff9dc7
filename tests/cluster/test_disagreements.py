"""Workers that differ, and errors on one worker: all workers stop with an error that says so, none waits for ever."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "disagree.py"
# case: kind of error and part of the message on worker 0, then on worker 1.
DIFFERENCES = {
    "units": (
        "WorkerError",
        "same weight 0 on all workers, received worker 0: kernel (4, 3) float32; worker 1: ",
    ),
    "another_class": ("WorkerError", "same class of the model on all workers, received worker 0: Functional; worker 1"),
    "loss_reduction": ("WorkerError", "same loss_reduction on all workers, received worker 0: mean; worker 1: sum"),
    "microbatches": ("WorkerError", "same number of microbatches on all workers, received worker 0: 1; worker 1: 2"),
    "stages": ("WorkerError", "same number of stages on all workers, received worker 0: 1; worker 1: 2"),
    "too_many_stages": ("PlanError", "kparallel run --devices-per-worker n gives each worker"),
    "replicas": ("PlanError", "Expected one replica on each of 2 workers, whose devices are CPUs, received replicas=4"),
    "rows": ("DataError", "same number of steps for each epoch on all workers, received [4, 2]"),
    "rows_in_as_many_steps": ("DataError", "same number of rows on all workers, received [16, 15]"),
    "shuffled_rows": ("DataError", "same number of rows on all workers, received [16, 15]"),
    "shuffle": ("WorkerError", "same shuffle on all workers, received worker 0: False; worker 1: True"),
    "kind": ("WorkerError", "same kind of data on all workers, received worker 0: arrays; worker 1: "),
    "settings": ("WorkerError", "same settings of the optimizer on all workers, received worker 0: SGD"),
    "loss": ("WorkerError", "same loss on all workers, received worker 0: mse; worker 1: MeanSquaredError"),
    "class_weight": (
        "WorkerError",
        "same class_weight on all workers, received worker 0: {0: 1.0}; worker 1: ",
    ),
    "call": ("WorkerError", "same call on all workers, received worker 0: fit; worker 1: predict"),
    "predicted_rows": ("WorkerError", "same number of rows on all workers, received worker 0: 16; worker 1: 8"),
    "predicted_shards": ("WorkerError", "same first rows on all workers"),
    "epochs": ("WorkerError", "same epochs on all workers, received worker 0: 2; worker 1: 3"),
    "optimizer": ("WorkerError", "same class of the optimizer on all workers, received worker 0: SGD; worker 1: Adam"),
    "validation": ("WorkerError", "same presence of validation_data on all workers, received worker 0: False"),
    "order": ("DataError", "all workers to read the same batches"),
    "late_rows": ("DataError", "all workers to read the same batches"),
    "rate": ("WorkerError", "same learning rate on all workers, received worker 0: 0.00999"),
    "rate_in_a_step": ("WorkerError", "; worker 1: 0.00499"),
    "weights": ("WorkerError", "same values of weight 'dense"),
    "ends_early": ("DataError", "worker 0: another batch, worker 1: no more batches"),
    "ends_early_within_steps": ("DataError", "worker 0: another batch, worker 1: no more batches"),
    "evaluated_ends_early": ("DataError", "worker 0: another batch, worker 1: no more batches"),
    "predicted_ends_early": ("DataError", "worker 0: another batch, worker 1: no more batches"),
    "evaluated_batches": ("WorkerError", "same number of batches on all workers, received worker 0: 4; worker 1: 2"),
    "validation_steps": ("DataError", "same number of validation batches on all workers, received [4, 2]"),
}
WORKS = [
    "shuffled_batches",
    "own_fit",
    "own_list",
    "divided_and_weighed",
    "backup_of_chief",
    "stops",
    "words",
    "sparse",
]
FAILURES = {
    "callback": (1, "ArithmeticError", "my own fault"),
    "callback_of_chief": (0, "ArithmeticError", "my own fault"),
    "checkpoint_nowhere": (0, "FileNotFoundError", "/proc/kparallel"),
    "full_disk": (0, "OSError", "No space left on device"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two workers raised, case by case."""
    folder = tmp_path_factory.mktemp("disagreements")
    gang = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--devices-per-worker", "2"]
    command = [*gang, "--timeout", "60", "--heartbeat", "20", SCRIPT, folder]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    return [json.loads((folder / f"{worker}.json").read_text()) for worker in (0, 1)]


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_named_on_both_workers(told, name):
    kind, part = DIFFERENCES[name]
    for worker in (0, 1):
        assert told[worker][name][0] == kind and part in told[worker][name][1], told[worker][name]


@pytest.mark.parametrize("name", WORKS)
def test_what_one_worker_does_otherwise_may_differ(told, name):
    assert told[0][name] == told[1][name] and told[0][name][0] == "", told[0][name]


def test_an_error_while_reading_is_told(told):
    assert told[1]["corrupt"][0] == "InvalidArgumentError" and "a corrupt record" in told[1]["corrupt"][1]
    assert told[0]["corrupt"][0] == "DataError" and "failed on worker 1" in told[0]["corrupt"][1], told[0]["corrupt"]


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_on_one_worker_stops_all(told, name):
    failing, kind, part = FAILURES[name]
    assert told[failing][name][0] == kind and part in told[failing][name][1], told[failing][name]
    other = told[1 - failing][name]
    assert other[0] == "WorkerError" and f"on worker {failing}: {kind}" in other[1] and part in other[1], other


def test_no_step_takes_a_message_where_sizes_are_known(told):
    for worker in (0, 1):
        short, long = json.loads(told[worker]["messages"][1])
        assert short == long < 20


def test_the_chief_writes_and_both_restore(told):
    written, same = json.loads(told[0]["files"][1])
    assert written == [
        "backup",
        "best.keras",
        "board",
        "exported",
        "log.csv",
        "model.keras",
        "model.weights.h5",
    ]
    assert same and json.loads(told[1]["files"][1]) == [[], True]


def test_the_watchdog_says_which_worker_keeps_the_others(told):
    kind, message = told[0]["stall"]
    assert kind == "" and message.startswith("worker 0 has not finished step 2: nothing for "), message
    assert re.search(r"nor has worker 1 \(127\.0\.0\.1:\d+\), at disagree\.py:\d+ in on_train_batch_begin$", message)


def test_the_workers_train_on_from_the_weights_of_the_chief(told):
    start, losses, weights = told[0]["afterwards"]
    assert told[1]["afterwards"] == [start, losses, weights]
    assert losses[-1] < losses[0] and start != weights
