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


# A run whose number of workers may change, with the real launcher and workers that count steps.
ELASTIC = """
import json, os, sys
from kparallel.launcher.elastic import supervise
from kparallel.launcher.gang import Launch, run_gang
from kparallel.launcher.sizes import parse_sizes

def start(places, gangs, heard):
    own = [{"ME": str(index), "MANY": str(len(places)), "GANG": str(gangs)} for index in range(len(places))]
    environments = tuple({**os.environ, **each} for each in own)
    return run_gang(Launch(tuple(sys.argv[3:]), environments, tuple(range(len(places))), 1.0, heard))

def say(ending, outlook):
    print(f"{ending.reason}; {outlook}", flush=True)

ending = supervise(parse_sizes(sys.argv[1]), int(sys.argv[2]), start, say)
print("ENDING", ending.code, ending.reason, flush=True)
sys.exit(ending.code)
"""

# The same over several launchers: the arguments are the addresses, this one's index, sizes, restarts, and the script.
HOSTS = """
import os, sys
from kparallel.launcher.gang import Launch
from kparallel.launcher.hosts import Hosts
from kparallel.launcher.member import run_over_hosts
from kparallel.launcher.sizes import parse_sizes

def make(start, heard):
    own = {"ME": str(start["index"]), "MANY": str(len(start["workers"])), "GANG": str(start["gangs"])}
    return Launch(tuple(sys.argv[5:]), ({**os.environ, **own},), (start["index"],), 1.0, heard)

sizes, seconds = parse_sizes(sys.argv[3]), float(os.environ.get("SECONDS_TO_WAIT", 60))
hosts = Hosts(tuple(sys.argv[1].split(",")), int(sys.argv[2]), sizes, int(sys.argv[4]), seconds, seconds, 60.0, "token")
try:
    ending = run_over_hosts(hosts, make, lambda line: print("TOLD", line, flush=True))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("ENDING", ending.code, ending.reason, flush=True)
sys.exit(ending.code)
"""

# Worker 0 counts steps and reports each as a checkpoint. What else happens is a list of (worker, gang, step, code):
# worker 0 runs its code before that step, others when worker 0 comes there, where it then waits to be ended.
COUNT = """
import os, pathlib, signal, sys, time
from kparallel.launcher_pipes import leave_is_asked, report_checkpoint

me, many, gang = (int(os.environ[name]) for name in ("ME", "MANY", "GANG"))
folder, most = pathlib.Path(sys.argv[1]), int(sys.argv[2])
fates = {(worker, step): code for worker, number, step, code in eval(sys.argv[3]) if number in (gang, "each")}
done, left = folder / "done", folder / f"left-{gang}"
step = int(done.read_text()) if done.exists() else 0
print("gang", gang, "of", many, *([] if me else ["from", step]), flush=True)

def wait_until(condition):
    while not condition():
        time.sleep(0.01)

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

if me:
    wait_until(lambda: left.exists() or (folder / f"{gang}-{me}").exists() or (folder / "finished").exists())
    for worker, at in fates:
        if worker == me and (folder / f"{gang}-{me}").exists():
            exec(fates[worker, at])
    sys.exit(75 if left.exists() else 0)
if step:
    report_checkpoint("resumed", 0, step)
while step < 6:
    exec(fates.get((0, step), ""))
    others = [worker for worker, at in fates if worker and at == step]
    for worker in others:
        (folder / f"{gang}-{worker}").touch()
    wait_until(lambda: not others)
    if leave_is_asked():
        left.touch()
        sys.exit(75)
    step += 1
    done.with_suffix(".new").write_text(str(step))
    done.with_suffix(".new").rename(done)
    report_checkpoint("written", 0, step)
    wait_until(lambda: many == most or leave_is_asked())
(folder / "finished").touch()
"""


def wait_until(condition, seconds=120):
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


def assert_no_orphan(folder):
    groups = [int(group) for group, _, _ in started(folder)]
    assert len(groups) == 2 and len(set(groups)) == 2
    wait_until(lambda: all(map(group_is_empty, groups)))
