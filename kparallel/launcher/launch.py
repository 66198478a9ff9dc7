"""Runs a function on several workers of this machine, from a notebook or a script."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kparallel.cluster import read_cluster
from kparallel.errors import ClusterError, WorkerError
from kparallel.launcher import call
from kparallel.launcher.background import follow_gang
from kparallel.launcher.call import read_error, read_result, write_call
from kparallel.launcher.gang import Ending, Launch
from kparallel.launcher.local import local_environments

__all__: list[str] = []

_GRACE = 10.0  # Seconds from an interrupt to SIGKILL.


def launch(
    function: Callable[..., Any],
    arguments: Sequence[Any] = (),
    workers: int = 2,
    *,
    devices_per_worker: int | None = None,
    timeout: float = 300.0,
    heartbeat: float = 60.0,
) -> Any:
    """Call a function on several workers of this machine, and return what it returns on the chief.

    For notebooks: the function may be defined in a cell. The workers are processes of their own, as `kparallel run -n`
    starts them, and have joined the cluster before the function is loaded. What they print appears here, each line with
    its worker's index. An interrupt ends them all. There is no limit to the time that the function may take.

    The function travels with what it uses of the notebook: functions, classes, data. Imported modules travel by name.
    Build the model and read the data inside the function, and return what you want to keep, such as
    `history.history` or the model, which arrives as a plain Keras model. On GPUs call it before TensorFlow has started
    in the notebook itself, which would keep the GPUs' memory.

    Args:
        function: What each worker calls.
        arguments: Its positional arguments.
        workers: The number of workers.
        devices_per_worker: Virtual CPU devices for each worker. Default: the GPUs, divided, where there are any.
        timeout: Seconds to wait for all workers at the start.
        heartbeat: Seconds after which a worker that has frozen counts as lost.

    Returns:
        What the function returns on worker 0; None where it ends by `sys.exit(0)`.

    Raises:
        ClusterError: It is called in a worker, or `TF_CONFIG` names a cluster.
        DeviceError: The workers do not divide the GPUs evenly.
        ImportError: cloudpickle is not installed; the extra `notebooks` brings it.
        ValueError: `workers` or `devices_per_worker` is below 1.
        WorkerError: A worker was killed, or left by `sys.exit`.
        Exception: What the function raises on the worker that failed first, with that worker's traceback as its cause.

    Example:
        >>> def train(factor):
        ...     import kparallel
        ...     return 3 * factor
        >>> launch(train, [2], workers=1)
        6
    """
    _check_place()
    for name, count in (("workers", workers), ("devices_per_worker", devices_per_worker)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"Expected {name} to be a whole number of at least 1, received {count!r}.")
    environment = {**os.environ, "KPARALLEL_TIMEOUT": str(timeout), "KPARALLEL_HEARTBEAT": str(heartbeat)}
    if devices_per_worker:
        environment["KPARALLEL_DEVICES_PER_WORKER"] = str(devices_per_worker)
    # As `kparallel run -n` starts them, so that both behave alike.
    environments = local_environments(environment, range(workers), workers, devices_per_worker)
    with tempfile.TemporaryDirectory(prefix="kparallel-") as name:
        folder = Path(name)
        write_call(folder, function, arguments)
        started = Launch(("-m", call.__name__, name), tuple(environments), tuple(range(workers)), _GRACE)
        ending = follow_gang(started, sys.stdout, sys.stderr)
        if ending.code:
            raise _error(ending, folder)
        return read_result(folder)


def _check_place() -> None:
    """Raise where more than one process would call `launch`."""
    if "KPARALLEL_LAUNCHER" in os.environ:
        raise ClusterError(
            "Expected kparallel.launch in the program that starts the workers, received a call in a worker. Call the "
            "function itself here, or start this program with python in place of kparallel run."
        )
    cluster = read_cluster()
    if cluster is not None:
        raise ClusterError(
            f"Expected no cluster, since kparallel.launch starts workers of this machine, received TF_CONFIG with "
            f"{len(cluster.workers)} workers. Call the function itself below kparallel.init(), or remove TF_CONFIG."
        )


def _error(ending: Ending, folder: Path) -> BaseException:
    """Return what the first failing worker raised, with its traceback; a WorkerError where it raised nothing."""
    summary = WorkerError(f"{ending.reason}:\n{ending.traceback}" if ending.traceback else f"{ending.reason}.")
    error = None if ending.worker is None else read_error(folder, ending.worker)
    if error is None:
        return summary
    error.__cause__ = summary
    return error
