"""What goes wrong around the launcher: its output, what workers leave behind, signals without a name, a full disk."""

import os
import resource
import select
import signal
import subprocess
import sys

import pytest

from tests.process.light_gang import GANG, wait_until

LINES = 20_000  # Far more than the pipes hold.
PRINT = f"""
import os, sys
for line in range({LINES}):
    print("line", line, "x" * 100)
open(os.path.join(sys.argv[1], os.environ["ME"]), "w").close()
"""


def start(tmp_path, code, gang=GANG, **options):
    """Start a gang of two that runs some code, in which `sys.argv[1]` is the test's folder."""
    script = tmp_path / "script.py"
    script.write_text(code)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", gang, str(script), str(tmp_path)], **streams)


def finished(tmp_path):
    return {name for name in os.listdir(tmp_path) if name in ("0", "1")} == {"0", "1"}


@pytest.mark.parametrize("reader", ["leaves", "never was", "is a full disk"])
def test_the_workers_train_on_where_the_launchers_output_cannot_be_written(tmp_path, reader):
    if reader == "never was":
        code = f"exec 1>&-; exec {sys.executable} -c '{GANG}' {tmp_path}/script.py {tmp_path}"
        (tmp_path / "script.py").write_text(PRINT)
        process = subprocess.Popen(["sh", "-c", code], stderr=subprocess.PIPE)
    elif reader == "leaves":
        process = start(tmp_path, PRINT)
        assert process.stdout.readline()
        process.stdout.close()
        process.stdout = None
    else:
        with open("/dev/full", "w") as full:
            process = start(tmp_path, PRINT, stdout=full)
    _, err = process.communicate(timeout=180)
    assert finished(tmp_path)
    told = err.decode().count("kparallel: stdout cannot be written")
    assert told == (0 if reader == "never was" else 1), err


def test_signals_are_heard_while_nobody_reads_the_launchers_output(tmp_path):
    quiet = GANG.replace('print("ENDING", ending, flush=True)', "")
    process = start(tmp_path, PRINT, gang=quiet)
    with process.stdout, process.stderr:
        wait_until(lambda: select.select([process.stdout], [], [], 0)[0])
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=180) == 143
    assert not finished(tmp_path)


def test_a_worker_ends_though_a_process_in_a_session_of_its_own_holds_its_output(tmp_path):
    code = """
import os, subprocess, sys, time
if os.environ["ME"] == "1":
    child = subprocess.Popen(["sh", "-c", "while true; do echo on and on; done"], start_new_session=True)
    open(f"{sys.argv[1]}/child", "w").write(str(child.pid))
    print("last words")
    sys.exit(7)
time.sleep(600)
"""
    process = start(tmp_path, code)
    try:
        out, err = process.communicate(timeout=180)
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert process.returncode == 7, err
    assert b"[1] last words" in out and b"reason='worker 1 failed with exit code 7'" in out


def test_output_without_a_newline_is_relayed_in_linear_time(tmp_path):
    size = 48 * 2**20
    code = f"import sys\nfor _ in range({size // 4096}):\n    sys.stdout.write('x' * 4096)\n"
    with open(tmp_path / "out", "wb") as file:
        process = start(tmp_path, code, stdout=file)
        process.communicate(timeout=180)
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert sorted(map(len, lines[:2])) == [size + len("[0] ")] * 2


def test_a_progress_line_is_relayed_while_it_grows(tmp_path):
    code = """
import os, sys, time
if os.environ["ME"] == "1":
    sys.stdout.write("\\r 10%\\r 20%")
    sys.stdout.flush()
    while not os.path.exists(f"{sys.argv[1]}/go"):
        time.sleep(0.01)
    sys.stdout.write("\\r 30%\\r\\nend\\r\\n")
"""
    with open(tmp_path / "out", "wb") as file:
        process = start(tmp_path, code, stdout=file)
        wait_until(lambda: b" 10%\r" in (tmp_path / "out").read_bytes())
        (tmp_path / "go").touch()
        assert not process.communicate(timeout=180)[1] and process.returncode == 0
    out = (tmp_path / "out").read_bytes()
    assert out.startswith(b"[1]  10%\r[1]  20%\r[1]  30%\r\n[1] end\r\n"), out


def test_a_line_begins_below_another_workers_progress(tmp_path):
    code = """
import os, sys, time
def wait_for(name):
    while not os.path.exists(f"{sys.argv[1]}/{name}"):
        time.sleep(0.01)
if os.environ["ME"] == "1":
    sys.stdout.write("a long bar: 10%\\rb")
    sys.stdout.flush()
    wait_for("go")
else:
    wait_for("shown")
    print("short")
    sys.stdout.flush()
"""
    with open(tmp_path / "out", "wb") as file:
        process = start(tmp_path, code, stdout=file)
        wait_until(lambda: b"10%\r" in (tmp_path / "out").read_bytes())
        (tmp_path / "shown").touch()
        wait_until(lambda: b"short" in (tmp_path / "out").read_bytes())
        (tmp_path / "go").touch()
        assert not process.communicate(timeout=180)[1] and process.returncode == 0
    assert (tmp_path / "out").read_bytes().startswith(b"[1] a long bar: 10%\r\n[0] short\n[1] b\n")


def test_a_signal_without_a_name_is_named(tmp_path):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGRTMIN + 3)"
    process = start(tmp_path, code)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 128 + signal.SIGRTMIN + 3, err
    assert b"was ended by SIGRTMIN+3" in out, out


def test_the_last_lines_hold_the_traceback_where_no_file_can_be_written(tmp_path):
    """No process may write a byte to a file, as on a full disk."""
    code = "print('x', flush=True)\nraise ValueError('the cause ' + 100_000 * 'long ' + 'end')"
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))}
    process = start(tmp_path, code, **full, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    out, err = process.communicate(timeout=180)
    ending = out.decode().splitlines()[-1]
    assert process.returncode == 1 and "traceback='" in ending and "long end" in ending, err[-2000:]
