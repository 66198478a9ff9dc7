"""Names the worker that was lost during training in the error that the other workers raise."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from kparallel.cluster import Cluster, read_cluster, read_one_program
from kparallel.comm.departures import ENDED
from kparallel.errors import WorkerError

__all__: list[str] = []

_TASK = r"/job:worker/replica:0/task:(\d+)"
# The most reliable first: the coordination service names the worker without heartbeats, gRPC the worker that closed a
# connection. Any other worker in a message is the one that forwards it, or the one of the failed operation.
_PATTERNS = (
    r"unhealthy \(stopped sending heartbeats\):((?:\s*" + _TASK + ")+)",
    r"(?:remote target|[Tt]ask|from) " + _TASK,
)
_SERVICE = "RPC: /tensorflow.CoordinationService/"  # It runs on the chief: if a call of it fails, the chief is lost.
_CHIEF = 0


def lost_workers(message: str, cluster: Cluster) -> tuple[int, ...]:
    """Return the workers that a TensorFlow error message reports as lost, excluding this one.

    Args:
        message: The text of the error.
        cluster: The workers.

    Example:
        >>> lost_workers("from remote target /job:worker/replica:0/task:1 while", Cluster(("a:1", "b:1"), 0))
        (1,)
    """
    for pattern in _PATTERNS:
        matches = " ".join(match[0] for match in re.finditer(pattern, message))
        numbers = {int(number) for number in re.findall(_TASK, matches)} - {cluster.index}
        lost = tuple(sorted(number for number in numbers if number < len(cluster.workers)))
        # A less reliable pattern is tried only where a more reliable one names nobody.
        if lost:
            return lost
    return (_CHIEF,) if _SERVICE in message and cluster.index != _CHIEF else ()


@contextlib.contextmanager
def translate_worker_loss() -> Iterator[None]:
    """Translate TensorFlow's error after the loss of a worker into one that names the worker.

    Raises:
        WorkerError: A worker was killed, failed, froze or cannot be reached.
    """
    try:
        yield
    except tf.errors.OpError as error:
        cluster = read_cluster() or read_one_program()
        lost = () if cluster is None else lost_workers(str(error), cluster)
        # An error of TensorFlow's that has nothing to do with another worker, such as a shape that does not fit.
        if cluster is None or not lost:
            raise
        names = ", ".join(f"worker {index} ({cluster.workers[index]})" for index in lost)
        start = "Start" if read_one_program() else "Unless all workers catch their errors and call fit again, start"
        raise WorkerError(
            f"Lost {names}, {_how(str(error))}. Look at the end of its output. {start} all again; with a Checkpoint "
            "they resume, and `kparallel run --restarts` starts them again by itself."
        ) from error


def _how(message: str) -> str:
    if ENDED in message:
        return "whose script has ended without an error, as by sys.exit(0), while this worker's still trains with it"
    if "heartbeat" in message.lower():
        return "which sends no sign of life: it has frozen, or its script has ended; or the network between failed"
    # The other machines of one program run no script.
    ends = "it failed or was killed" if read_one_program() else "it failed, was killed, or its script has ended"
    return f"which hung up: {ends}; or the network between failed"
