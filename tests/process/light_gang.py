"""A gang of two workers that need no TensorFlow, and what a test asks of its processes."""

import contextlib
import os
import time

GANG = """
import os, sys
from kparallel.launcher.gang import Launch, run_gang
ending = run_gang(Launch(tuple(sys.argv[1:]), ({**os.environ, "ME": "0"}, {**os.environ, "ME": "1"}), (0, 1), 1.0))
print("ENDING", ending, flush=True)
sys.exit(ending.code)
"""

# Each worker starts a process of its own, and shuts its ears to SIGTERM as TensorFlow does.
DEAF = """
import os, signal, subprocess, sys, time
me = os.environ["ME"]
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: print("heard", signal.Signals(number).name, flush=True))
child = subprocess.Popen(["sleep", "600"])
open(f"{sys.argv[1]}/{me}.tmp", "w").write(f"{os.getpgid(0)} {os.getpid()} {child.pid}")
os.rename(f"{sys.argv[1]}/{me}.tmp", f"{sys.argv[1]}/{me}.started")
while not all(os.path.exists(f"{sys.argv[1]}/{n}.started") for n in "01"):
    time.sleep(0.01)
"""


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def started(folder):
    return [path.read_text().split() for path in sorted(folder.glob("*.started"))]


def group_is_empty(group):
    """Whether no process of a group lives: one that nobody has waited for yet does not."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                state, _, pgid = file.read().rpartition(")")[2].split()[:3]
                if int(pgid) == group and state not in "ZX":
                    return False
    return True


def assert_no_orphan(folder, seconds=5):
    groups = [int(group) for group, _, _ in started(folder)]
    assert len(groups) == 2 and len(set(groups)) == 2
    wait_until(lambda: all(map(group_is_empty, groups)), seconds)
