"""Runs the checks of placement in a process of their own: TensorFlow's record of executed graphs is the process's."""

import subprocess
import sys
from pathlib import Path

CHECKS = Path(__file__).with_name("placement.py")


def test_placement_and_traffic_of_an_executed_step():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", CHECKS]
    run = subprocess.run(command, cwd=CHECKS.parents[2], capture_output=True, text=True, timeout=360)
    assert run.returncode == 0 and "4 passed" in run.stdout, run.stdout[-4000:] + run.stderr[-2000:]
