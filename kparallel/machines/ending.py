"""How a process of one program over several machines ends where another machine is lost: a sentence, then the exit."""

import os
import sys
import time
from typing import NoReturn

from kparallel.cluster import Cluster
from kparallel.launcher_pipes import send_to_launcher
from kparallel.machines.control import name_workers

__all__: list[str] = []

LOST = 1  # The exit code of a process that ends because another machine was lost.
HUNG_UP = "which hung up: it failed or was killed"
SILENT = "which does not respond any more: it has frozen, or the network between failed"
_WAY_OUT = (
    "Look at the end of its output, and start all machines again; a script with kparallel.callbacks.Checkpoint goes on "
    "from its last checkpoint, and `kparallel run --restarts` starts it again by itself."
)


def lost_sentence(cluster: Cluster, index: int, how: str) -> str:
    """Return the sentence on a lost machine.

    Args:
        cluster: The machines, seen from the process that ends.
        index: Which of them was lost.
        how: `HUNG_UP`, `SILENT`, or another clause.
    """
    who = "the program on " if index == 0 else ""
    return f"Lost {who}{name_workers(cluster, [index])}, {how}. {_WAY_OUT}"


def end_process(sentence: str, code: int = LOST) -> NoReturn:
    """Write a sentence and end the process at once, from any thread.

    A call of TensorFlow that waits for a frozen machine cannot be interrupted, so no exception would get through.

    Args:
        sentence: Printed, and told to the launcher as the consequence of another worker's end.
        code: The exit code.
    """
    send_to_launcher({"time": time.time(), "traceback": f"WorkerError: {sentence}\n", "consequence": True})
    sys.stdout.flush()
    os.write(2, f"kparallel: {sentence}\n".encode())
    os._exit(code)
