"""Runs whose number of workers changes: with the launcher and light processes, and with a training as a whole."""

import subprocess
import sys

import pytest

from tests.process.light_gang import COUNT, ELASTIC


def count(tmp_path, sizes, restarts, *fates):
    """Run six steps; return the exit code and what was told: the gangs, and what the launcher said."""
    script = tmp_path / "script.py"
    script.write_text(COUNT)
    most = sizes.rpartition(":")[2]
    arguments = [sizes, str(restarts), str(script), str(tmp_path), most, repr(list(fates))]
    done = subprocess.run([sys.executable, "-c", ELASTIC, *arguments], capture_output=True, text=True, timeout=60)
    lines = [line.removeprefix("[0] ") for line in done.stdout.splitlines() if not line.startswith(("[1]", "[2]"))]
    assert "Traceback" not in done.stderr or "a fault" in done.stderr, done.stderr
    return done.returncode, lines


def test_a_run_goes_on_with_fewer_and_with_more_again(tmp_path):
    code, lines = count(tmp_path, "2:3", 0, (1, 0, 2, "kill()"))
    assert code == 0 and lines == [
        "gang 0 of 3 from 0",
        "worker 1 was ended by SIGKILL; 2 workers go on from step 2 of epoch 0",
        "gang 1 of 2 from 2",
        "lost workers are started again; 3 workers go on from step 3 of epoch 0",
        "gang 2 of 3 from 3",
        "ENDING 0 ",
    ]


def test_a_run_ends_with_the_cause_where_too_few_are_left(tmp_path):
    code, lines = count(tmp_path, "2:3", 0, (1, 0, 1, "kill()"), (0, 1, 1, "kill()"))
    assert code == 137 and lines[-2:] == ["gang 1 of 2 from 1", "ENDING 137 worker 0 was ended by SIGKILL"]


def test_a_restart_starts_a_worker_again_where_too_few_are_left(tmp_path):
    code, lines = count(tmp_path, "2:3", 1, (1, 0, 1, "kill()"), (0, 1, 1, "kill()"))
    assert code == 0 and lines[3:6] == [
        "worker 0 was ended by SIGKILL; restart 1 of 1",
        "gang 2 of 2 from 1",
        "lost workers are started again; 3 workers go on from step 2 of epoch 0",
    ]


def test_workers_that_are_killed_at_once_each_time_do_not_start_for_ever(tmp_path):
    code, lines = count(tmp_path, "1:3", 0, (0, "each", 0, "kill()"))
    anew = "as no kparallel.callbacks.Checkpoint has written a checkpoint yet"
    assert code == 137 and lines == [
        "gang 0 of 3 from 0",
        f"worker 0 was ended by SIGKILL; 2 workers start anew, {anew}",
        "gang 1 of 2 from 0",
        f"worker 0 was ended by SIGKILL; 1 worker starts anew, {anew}",
        "gang 2 of 1 from 0",
        "ENDING 137 worker 0 was ended by SIGKILL",
    ]


def test_a_fault_of_the_script_is_no_loss(tmp_path):
    code, lines = count(tmp_path, "1:2", 1, (1, "each", 1, "raise ValueError('a fault')"))
    assert code == 1 and lines == [
        "gang 0 of 2 from 0",
        "worker 1 failed with exit code 1; restart 1 of 1",
        "gang 1 of 2 from 1",
        "ENDING 1 worker 1 failed with exit code 1",
    ]


def test_a_frozen_worker_is_a_loss(tmp_path):
    lost = "from kparallel.errors import WorkerError; raise WorkerError('Lost worker 1, a fault')"
    code, lines = count(tmp_path, "1:2", 0, (0, 0, 3, lost))
    assert code == 0 and "worker 1 did not respond any more; 1 worker goes on from step 3 of epoch 0" in lines


def test_a_worker_that_is_told_to_leave_is_a_loss(tmp_path):
    code, lines = count(tmp_path, "1:2", 0, (0, 0, 3, "left.touch(); sys.exit(75)"))
    assert code == 0 and lines[2:4] == [
        "gang 1 of 1 from 3",
        "lost workers are started again; 2 workers go on from step 4 of epoch 0",
    ]


@pytest.mark.parametrize(
    ("sizes", "part"),
    [
        ("4:2", "expected MIN:MAX with MIN not above MAX, received '4:2'; write 2:4."),
        ("0:2", "expected at least 1 worker, received '0:2'."),
        ("0", "expected at least 1 worker, received '0'."),
        ("2:", "expected a number of workers such as 4, or MIN:MAX such as 2:4, received '2:'."),
        ("two", "received 'two'."),
    ],
)
def test_wrong_sizes_are_named(sizes, part):
    command = [sys.executable, "-m", "kparallel", "run", "-n", sizes, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and part in " ".join(done.stderr.split()), done.stderr
