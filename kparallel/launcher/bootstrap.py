"""What a launched worker runs: join the cluster, then the user's script as `__main__`."""

import ctypes
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

from kparallel.cluster import Cluster, read_one_program
from kparallel.errors import WorkerError
from kparallel.launcher_pipes import send_to_launcher

__all__: list[str] = []

_LONGEST = 10_000  # Characters of a traceback; escaped, they fit into a pipe, which holds 64 KB, whoever reads.
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def main(arguments: list[str]) -> None:
    """Run a script as this process's program.

    The launcher sets `KPARALLEL_LAUNCHER` to its process id, `KPARALLEL_REPORT`, `KPARALLEL_NEWS` and `KPARALLEL_LEAVE`
    to the descriptors of the pipes that take reports, bring news of other workers, and ask to leave, and
    `KPARALLEL_TIMEOUT` and `KPARALLEL_HEARTBEAT` to what `kparallel.init` is given.

    Args:
        arguments: The script's path (or `-m` and a module's name), then its arguments.
    """
    _die_with(int(os.environ["KPARALLEL_LAUNCHER"]))
    for name in ("KPARALLEL_REPORT", "KPARALLEL_NEWS", "KPARALLEL_LEAVE"):
        # A process that the script starts would otherwise hold the pipes open after the worker's end.
        os.set_inheritable(int(os.environ[name]), False)
    try:
        if one_program := read_one_program():
            _run_over_machines(one_program, arguments)
            return
        if os.environ.get("TF_CONFIG") or os.environ.get("KPARALLEL_DEVICES_PER_WORKER"):
            from kparallel.comm.join import init

            init(float(os.environ["KPARALLEL_TIMEOUT"]), float(os.environ["KPARALLEL_HEARTBEAT"]))
        _run(arguments)
    except SystemExit as stop:
        if stop.code not in (None, 0):
            _report("" if isinstance(stop.code, int) else f"{stop.code}\n")
        raise
    except BaseException as error:
        text = _own_traceback()
        _report(text, consequence=isinstance(error, WorkerError))
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
        # TensorFlow would wait at exit for workers that wait for this one.
        os._exit(1)


def _run_over_machines(cluster: Cluster, arguments: list[str]) -> None:
    """Run the script on worker 0, with the devices of all machines; on any other worker serve this machine's."""
    from kparallel.comm.failures import translate_worker_loss
    from kparallel.machines.program import join_servers
    from kparallel.machines.server import serve

    devices = os.environ.get("KPARALLEL_DEVICES_PER_WORKER")
    timeout, heartbeat = (float(os.environ[f"KPARALLEL_{name}"]) for name in ("TIMEOUT", "HEARTBEAT"))
    start = join_servers if cluster.index == 0 else serve
    program = start(
        cluster, int(devices) if devices else None, timeout, heartbeat, os.environ.get("KPARALLEL_TOKEN", "")
    )
    code = 1
    try:
        with program.naming_the_lost(), translate_worker_loss():
            _run(arguments)
        code = 0
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code if isinstance(stop.code, int) else 1
        raise
    finally:
        program.ends(code)


def _run(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


def _die_with(launcher: int) -> None:
    """Let Linux end this process when its launcher is gone, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != launcher:  # It was gone before the call.
            os._exit(1)


def _own_traceback() -> str:
    """Return the traceback without the launcher's own frames."""
    kind, error, trace = sys.exc_info()
    while trace is not None and _is_launchers(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(kind, error, trace))


def _is_launchers(file: str) -> bool:
    return file in (runpy.__file__, "<frozen runpy>") or os.path.dirname(file) == os.path.dirname(__file__)


def _report(text: str, consequence: bool = False) -> None:
    """Leave word for the launcher: what was raised, and whether another worker's failure caused it."""
    send_to_launcher({"time": time.time(), "traceback": text[-_LONGEST:], "consequence": consequence})


if __name__ == "__main__":
    main(sys.argv[1:])
