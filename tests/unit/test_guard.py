"""The process that ends what a killed launcher leaves behind."""

import os
import signal
import subprocess
import sys

from kparallel.launcher import guard


def test_groups_that_are_left_are_killed():
    sleepers = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        for _ in range(2)
    ]
    try:
        left, ended = sleepers
        lines = f"+{left.pid}\n+{ended.pid}\n-{ended.pid}\n"
        subprocess.run([sys.executable, guard.__file__], input=lines, text=True, check=True, timeout=120)
        assert left.wait(120) == -signal.SIGKILL
        assert ended.poll() is None
    finally:
        for each in sleepers:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
            each.wait(120)
