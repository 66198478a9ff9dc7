"""One program over several machines: real processes on loopback, held against one device, and what ends them."""

import subprocess
import sys
from pathlib import Path

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
