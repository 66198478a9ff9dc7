"""A server of one program over several machines: TensorFlow's own runtime, which does what the program says."""

import os
import signal
from typing import NoReturn

import tensorflow as tf

from kparallel.cluster import Cluster
from kparallel.comm.join import handshake
from kparallel.comm.liveness import is_silent
from kparallel.machines.control import Line, connect_to_program, name_workers
from kparallel.machines.ending import HUNG_UP, SILENT, end_process, lost_sentence
from kparallel.machines.requests import Requests
from kparallel.rendezvous import wait_for_peers

__all__: list[str] = []

PREEMPTED = 75  # The exit code of a script that left after a checkpoint, as a notice asked it to.
_INTERVAL = 2.0  # Seconds between probes of the program.


def serve(cluster: Cluster, devices: int | None, timeout: float, heartbeat: float, token: str) -> NoReturn:
    """Serve this machine's devices until the program ends; then end this process.

    The exit code is the script's, or that of a lost machine where the program fails or is lost.

    Args:
        cluster: The machines, seen from this one.
        devices: How many virtual CPU devices this machine gets; None for TensorFlow's default.
        timeout: Seconds to wait for the other machines.
        heartbeat: Seconds after which a program that does not respond is lost.
        token: What all workers know and nobody else; empty for none.

    Raises:
        ClusterError: This machine's address cannot be listened on.
        WorkerError: A machine does not come, or its versions differ; the message names it.
    """
    wait_for_peers(cluster, handshake(one_program=True), timeout, token=token)
    configuration = tf.compat.v1.ConfigProto(device_count={} if devices is None else {"CPU": devices})
    spec = tf.train.ClusterSpec({"worker": list(cluster.workers)})
    # Referenced until the process ends: TensorFlow stops a server that Python forgets.
    server = tf.distribute.Server(
        spec, job_name="worker", task_index=cluster.index, protocol="grpc", config=configuration
    )
    line = connect_to_program(cluster, token, timeout)
    # The program decides when to end: a checkpoint may need this machine after the notice.
    signal.signal(signal.SIGTERM, lambda number, frame: line.send(notice=1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _follow(cluster, line, heartbeat)
    del server


def _follow(cluster: Cluster, line: Line, heartbeat: float) -> NoReturn:
    """Wait until the program has ended, then end this process in the same way."""
    ended, connected, requests = None, False, Requests()
    while (message := line.read(_INTERVAL)) is not None:
        connected = connected or "connected" in message
        ended = message.get("ended", ended)
        if "ask" in message:
            line.send(answer=requests.answer(message["ask"]))
            continue
        # A program that has ended may take its time to exit.
        if ended is None and connected and is_silent(cluster.workers[0], heartbeat) and line.read(0.0) is not None:
            end_process(lost_sentence(cluster, 0, SILENT))
    if ended is None:
        end_process(lost_sentence(cluster, 0, HUNG_UP))
    if ended not in (0, PREEMPTED):
        end_process(f"The script on {name_workers(cluster, [0])} has ended with exit code {ended}.", ended)
    os._exit(ended)
