"""One program over several machines: real processes on loopback, held against one device, and what ends them."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.processes import ENVIRONMENT

HERE = Path(__file__).parent
RUN = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--one-program", "--timeout", "60", "--grace", "1"]


def is_gone(process):
    return not Path(f"/proc/{process}").exists()


def test_one_program_over_two_machines_equals_one_device_and_ends_where_one_freezes(tmp_path):
    command = [*RUN, "--devices-per-worker", "2", "--heartbeat", "3", HERE / "one_program.py", tmp_path]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    lines = done.stdout.splitlines()
    assert lines == [
        "[0] two replicas of two stages (('worker0/CPU:0', 'worker1/CPU:0'), ('worker0/CPU:1', 'worker1/CPU:1'))",
        "[0] one replica, by name (('worker0/CPU:1', 'worker1/CPU:1'),)",
        "[0] refused",
    ], done.stdout + done.stderr[-6000:]
    assert done.returncode == 1
    assert "kparallel: Lost worker 1 (127.0.0.1:" in done.stderr and "does not respond any more" in done.stderr


def disturbed(folder, fate, moment, *options):
    """Run the script that fails, and return how the launcher ended; whatever it does, that takes less than 30 s."""
    folder.mkdir(exist_ok=True)
    command = [*RUN, "--heartbeat", "3", *options, "-m", "tests.cluster.one_program_faults", folder, fate, moment]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    server = folder / "server"
    if server.exists() and "restarts" not in " ".join(options):
        assert time.time() - server.stat().st_mtime < 30
        assert is_gone(int(server.read_text()))
    return done


LOSSES = [(fate, moment) for fate in ("killed", "frozen") for moment in ("tracing", "step", "evaluate", "saving")]


@pytest.mark.full
@pytest.mark.parametrize(("fate", "moment"), LOSSES)
def test_the_program_ends_with_the_name_of_the_machine_that_is_lost(tmp_path, fate, moment):
    done = disturbed(tmp_path, fate, moment)
    assert done.returncode == (137 if fate == "killed" else 1), done.stderr[-6000:]  # The cause counts.
    assert "Lost worker 1 (127.0.0.1:" in done.stderr, done.stderr[-6000:]
    assert ("does not respond any more" if fate == "frozen" else "which hung up") in done.stderr


FAILURES = {"itself killed": (137, "ended by SIGKILL"), "itself fails": (1, "own"), "itself ends": (7, "exit code 7")}


@pytest.mark.full
@pytest.mark.parametrize("fate", FAILURES)
def test_the_servers_end_with_the_program(tmp_path, fate):
    code, words = FAILURES[fate]
    done = disturbed(tmp_path, fate, "step")
    assert done.returncode == code and words in done.stderr, done.stderr[-6000:]


@pytest.mark.full
def test_a_run_that_lost_a_machine_goes_on_from_its_checkpoint_to_the_same_end(tmp_path):
    whole, killed, asked = (tmp_path / name for name in ("whole", "killed", "asked"))
    assert disturbed(whole, "nothing", "never").returncode == 0
    done = disturbed(killed, "killed", "step", "--restarts", "1")
    assert done.returncode == 0 and "restart 1 of 1" in done.stderr, done.stderr[-6000:]
    # SIGTERM to a server is a notice to the program, which leaves after a checkpoint.
    assert disturbed(asked, "asked", "step").returncode == 75
    assert disturbed(asked, "nothing", "never").returncode == 0
    for folder in (killed, asked):
        got, want = np.load(folder / "end.npz"), np.load(whole / "end.npz")
        for name in want.files:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-12)
