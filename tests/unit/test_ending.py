"""How a process ends that has lost a machine: its sentence, its exit code, and what its launcher hears."""

import json
import os
import subprocess
import sys

from kparallel.cluster import Cluster
from kparallel.machines.ending import HUNG_UP, LOST, SILENT, lost_sentence

MACHINES = Cluster(("a:1", "b:2"), 0)
END = """
import sys, threading, time
from kparallel.machines.ending import end_process
print("printed before")
threading.Thread(target=end_process, args=("Lost worker 1.",)).start()
time.sleep(60)
"""


def test_the_sentence_names_who_was_lost_how_and_what_to_do():
    assert lost_sentence(MACHINES, 1, HUNG_UP).startswith(
        "Lost worker 1 (b:2), which hung up: it failed or was killed. "
    )
    assert lost_sentence(MACHINES, 0, SILENT).startswith("Lost the program on worker 0 (a:1), which does not respond")
    assert "Checkpoint" in lost_sentence(MACHINES, 1, SILENT)


def test_a_thread_ends_the_process_and_tells_the_launcher():
    heard, report = os.pipe()
    environment = os.environ | {"KPARALLEL_LAUNCHER": str(os.getpid()), "KPARALLEL_REPORT": str(report)}
    done = subprocess.run(
        [sys.executable, "-c", END], env=environment, pass_fds=[report], capture_output=True, text=True, timeout=180
    )
    os.close(report)
    with os.fdopen(heard) as lines:
        message = json.loads(lines.read())
    assert done.returncode == LOST == 1
    assert done.stdout == "printed before\n" and done.stderr == "kparallel: Lost worker 1.\n"
    assert message["consequence"] is True and message["traceback"] == "WorkerError: Lost worker 1.\n"
