"""The launcher, with scripts that need no TensorFlow: output, signals, failures, restarts, and no orphan left."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from tests.process.light_gang import DEAF, GANG, assert_no_orphan, started, wait_until


@pytest.fixture
def gang(tmp_path):
    """Start a gang of two that runs DEAF and then some code; end it whatever happens."""
    with contextlib.ExitStack() as stack:

        def start(code, deaf=DEAF):
            script = tmp_path / "script.py"
            script.write_text(deaf + code)
            arguments = [sys.executable, "-c", GANG, str(script), str(tmp_path)]
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


def test_output_is_prefixed_line_by_line(gang, tmp_path):
    code = "print('one\\ntwo', sys.argv); print(me, file=sys.stderr); print('no end', end='')"
    process = gang(code)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines.pop().startswith("ENDING Ending(code=0, reason='', traceback='', signalled=False, worker=None, ")
    for index in (0, 1):
        own = [line.removeprefix(f"[{index}] ") for line in lines if line.startswith(f"[{index}] ")]
        assert own == ["one", f"two {[str(tmp_path / 'script.py'), str(tmp_path)]}", "no end"]
    assert sorted(err.splitlines()) == ["[0] 0", "[1] 1"]
    assert_no_orphan(tmp_path)


FAILURES = {
    "raises": (
        "def f():\n    raise ValueError('boom')\nf()",
        1,
        "worker 1 failed with exit code 1",
        "ValueError: boom\n",
    ),
    "exits": ("sys.exit(7)", 7, "worker 1 failed with exit code 7", ""),
    "says why": ("sys.exit('no data')", 1, "worker 1 failed with exit code 1", "no data\n"),
    "is killed": ("os.kill(os.getpid(), 9)", 137, "worker 1 was ended by SIGKILL", ""),
}


@pytest.mark.parametrize("name", FAILURES)
def test_where_one_fails_all_end(gang, tmp_path, name):
    code, status, reason, traceback = FAILURES[name]
    process = gang(f"if me == '1':\n    exec({code!r})\nwhile True:\n    time.sleep(1)")
    out, err = process.communicate(timeout=180)
    assert process.returncode == status, err
    assert f"reason='{reason}'" in out and "[0] heard SIGTERM" in out
    ending = next(line for line in out.splitlines() if line.startswith("ENDING"))
    assert repr(traceback)[1:-1] in ending and "bootstrap" not in ending
    assert_no_orphan(tmp_path)


def test_of_several_failures_the_first_counts(gang):
    """Worker 0 ends first, for it is worker 1's process that is slow to end after it raised."""
    code = """
import pathlib
raised = pathlib.Path(sys.argv[1]) / "raised"
if me == "1":
    import sys as slow
    class Slow:
        def write(self, text): slow.__stderr__.write(text); raised.touch(); time.sleep(0.2)
        def flush(self): pass
    slow.stderr = Slow()
    raise ValueError("the cause")
while not raised.exists():
    time.sleep(0.01)
raise RuntimeError("the consequence")
"""
    process = gang(code)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1 and "worker 1 failed" in out and "the cause" in out.splitlines()[-1], out + err


def test_the_cause_counts_before_its_consequences(gang):
    """Worker 0 notices that worker 1 fails, and ends before it does."""
    code = """
from kparallel.errors import WorkerError
if me == "0":
    raise WorkerError("Lost worker 1")
while not is_gone(int(open(f"{sys.argv[1]}/0.started").read().split()[1])):
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    gone = "def is_gone(process):\n    return not os.path.exists(f'/proc/{process}')\n"
    process = gang(gone + code)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 137 and "worker 1 was ended by SIGKILL" in out, out + err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_are_passed_on_and_the_deaf_are_killed(gang, tmp_path, number):
    process = gang("while True:\n    time.sleep(1)")
    wait_until(lambda: len(started(tmp_path)) == 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 128 + number, err
    heard = "SIGINT" if number == signal.SIGINT else "SIGTERM"
    for index in (0, 1):
        assert f"[{index}] heard {heard}" in out
    assert_no_orphan(tmp_path)


# Each worker finishes at its own pace once SIGTERM has come, with a code of its own.
FINISHING = """
import os, signal, sys, time
me, told = os.environ["ME"], []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
open(f"{sys.argv[1]}/{me}.started", "w").close()
while not told:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((75, 75), 75), ((0, 75), 75), ((0, 3), 143)])
def test_a_run_that_has_finished_when_a_signal_comes_has_succeeded(gang, tmp_path, codes, code):
    process = gang(f"sys.exit({codes}[int(me)])", FINISHING)
    wait_until(lambda: len(started(tmp_path)) == 2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=180)
    assert process.returncode == code, err


def test_neither_workers_nor_their_children_outlive_a_killed_launcher(gang, tmp_path):
    process = gang("while True:\n    time.sleep(1)")
    wait_until(lambda: len(started(tmp_path)) == 2)
    process.kill()
    assert_no_orphan(tmp_path)


def kparallel(*arguments, **environment):
    command = [sys.executable, "-m", "kparallel", *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180)


def test_a_failed_run_is_restarted(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nprint('start', os.environ['KPARALLEL_RESTARTS'])\nassert len(sys.argv) > 1, 'no'"
    )
    done = kparallel("run", "--restarts", 2, script)
    assert done.returncode == 1 and done.stdout == "start 0\nstart 1\nstart 2\n"
    assert "kparallel: worker 0 failed with exit code 1; restart 2 of 2" in done.stderr
    assert done.stderr.endswith("AssertionError: no\n"), done.stderr
    script.write_text("import os, sys\nassert os.environ['KPARALLEL_RESTARTS'] == '1' and sys.argv[1:] == ['-n', '3']")
    assert kparallel("run", "--restarts", 2, script, "-n", 3).returncode == 0


def test_modules_run_as_python_runs_them():
    done = kparallel("run", "-m", "calendar", "2026", "11")
    assert done.returncode == 0 and "November 2026" in done.stdout


# One of two tasks that srun has started on this machine.
TASK = {
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_STEP_TASKS_PER_NODE": "2",
}


@pytest.mark.parametrize(
    ("arguments", "environment", "part"),
    [
        (["run", "no.py"], {}, "'no.py' is no file"),
        (["run", "--worker", "2", __file__], {}, "such option"),
        (["run", "-n", "2", "--hosts", "a,b", "--index", "0", __file__], {}, "not both"),
        (["run", "--index", "0", __file__], {}, "--hosts"),
        (["run", "-n", "1:2", "--index", "0", __file__], {}, "--hosts"),
        (
            ["run", "-n", "1:3", "--hosts", "a,b", "--index", "0", __file__],
            {},
            "-n MIN:2, as --hosts names 2",
        ),
        (["run", "-n", "2:4", __file__], TASK, "-n MIN:2, as SLURM_PROCID tells of a job of 2, received -n 2:4"),
        (["run", "-n", "2", __file__], TASK, "as SLURM_PROCID makes this process 1 of 2, each of them a worker"),
        (["run", "--hosts", "a,b", "--index", "2", __file__], {}, "from 0 to 1, received 2"),
        (["run", "--hosts", "a,b", __file__], {}, "Expected --index"),
        (["run", __file__], {"TF_CONFIG": "{"}, "Expected JSON in TF_CONFIG"),
        (["run", "-n", "2", __file__], {"CUDA_VISIBLE_DEVICES": "0,1,2"}, "divides the 3 GPUs"),
        (["test"], {"TF_CONFIG": "{"}, "Expected JSON in TF_CONFIG"),
        (["plan", "model"], {}, "module:function"),
    ],
)
def test_wrong_use_is_told_before_anything_starts(arguments, environment, part):
    done = kparallel(*arguments, **environment)
    told = " ".join(done.stderr.split())
    assert done.returncode in (1, 2) and part in told and "Traceback" not in done.stderr, done.stderr


def test_help_loads_no_tensorflow():
    for arguments in (["--help"], ["run", "--help"], ["plan", "--help"], ["test", "--help"], ["env"], ["--version"]):
        code = "import sys\nfrom kparallel.launcher.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        code += "    assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0 and done.stdout, done.stderr


def test_a_plan_is_printed_and_drawn(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import keras\n\ndef build():\n    layers = [keras.layers.Dense(4) for _ in range(4)]\n"
        "    return keras.Sequential([keras.Input((4,)), *layers])\n\ndef nothing():\n    return 3\n"
    )
    command = [sys.executable, "-m", "kparallel", "plan", "mine:build", "--stages", "2", "--microbatches", "4"]
    where = {"cwd": tmp_path, "env": {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}}
    checked = {"capture_output": True, "text": True, "timeout": 360, **where}
    done = subprocess.run([*command, "--replicas", "2", "--plot", "plan.svg"], **checked)
    assert done.returncode == 0, done.stderr
    assert "2 replicas x 2 stages" in done.stdout and "CPU:3" in done.stdout
    search = ["--memory-per-device", "1GB", "--batch-size", "8", "--devices", "3", "--shard", "optimizer"]
    done = subprocess.run([*command[:5], *search], **checked)
    assert "3 replicas x 1 stage" in done.stdout and "chosen: plain data parallelism fits" in done.stdout, done.stderr
    assert "optimizer shared out over 3 replicas" in done.stdout
    assert (tmp_path / "plan.svg").read_text().rstrip().endswith("</svg>")
    command[command.index("mine:build")] = "mine:nothing"
    wrong = subprocess.run(command, **checked)
    assert wrong.returncode == 1 and "Error: " in wrong.stderr and "Traceback" not in wrong.stderr, wrong.stderr


def test_the_environment_is_printed_without_secrets():
    done = kparallel(
        "env", KPARALLEL_TOKEN="abc", SM_HOSTS='["a", "b"]', SM_CURRENT_HOST="b", CUDA_VISIBLE_DEVICES="-1"
    )
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.returncode == 0 and {"kparallel", "python", "tensorflow", "keras", "system"} <= lines.keys()
    assert lines["cluster"] == 'worker 1 of ["a:2222", "b:2222"]' and lines["KPARALLEL_TOKEN"] == "(set)"
    assert lines["GPUs"] == "none" and "abc" not in done.stdout
    assert "cluster              ClusterError: Expected JSON" in kparallel("env", TF_CONFIG="{").stdout
