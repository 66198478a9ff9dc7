"""The program's side of one program over several machines: it connects to the servers, and watches them."""

import contextlib
import functools
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from kparallel.cluster import Cluster, read_cluster, read_one_program
from kparallel.comm.join import handshake
from kparallel.comm.liveness import is_silent
from kparallel.compat.startup import tensorflow_has_started
from kparallel.devices import virtual_devices
from kparallel.errors import WorkerError
from kparallel.machines.control import Line, accept_servers
from kparallel.machines.ending import HUNG_UP, SILENT, end_process, lost_sentence
from kparallel.rendezvous import to_stderr, wait_for_peers

__all__: list[str] = []

_INTERVAL = 2.0  # Seconds between probes of a server.
_NEWS = 0.5  # Seconds after an error in which word of a lost server comes.
_GRACE = 5.0  # Seconds in which the script may end by itself, on TensorFlow's own error.
_THREADS = 4  # That start operations: with one thread a tensor is sent only after the action that follows it.


class Program:
    """The program, connected to the servers of all other machines.

    A thread watches each server. Its connection ends where the server is killed: TensorFlow's own calls then fail as
    well, but a program that is tracing makes none. The server's TensorFlow is probed besides: under a frozen machine,
    or one that is cut off, a call of TensorFlow waits for ever, and Python cannot interrupt it. Then the thread ends
    the process.

    Args:
        cluster: The machines; this process is worker 0.
        lines: The connection to each server.
        heartbeat: Seconds after which a server that does not respond is lost.
    """

    def __init__(self, cluster: Cluster, lines: dict[int, Line], heartbeat: float) -> None:
        self._cluster = cluster
        self._lines = lines
        self._heartbeat = heartbeat
        self._lost = ""
        self._loss = threading.Event()
        self._asking = threading.Lock()
        self._answers: dict[int, queue.Queue[Any]] = {index: queue.Queue() for index in lines}
        for index in lines:
            name = f"kparallel-server-{index}"
            threading.Thread(target=functools.partial(self._watch, index), name=name, daemon=True).start()

    def connected(self) -> None:
        """Tell the servers that TensorFlow listens on the program's port from now on, so that they can probe it."""
        for line in self._lines.values():
            line.send(connected=1)

    def ends(self, code: int) -> None:
        """Tell the servers how the script has ended. They stay until this process is gone: its exit may need them."""
        for line in self._lines.values():
            line.send(ended=code)

    @property
    def cluster(self) -> Cluster:
        """The machines."""
        return self._cluster

    def ask(self, request: str) -> dict[int, Any]:
        """Ask all servers the same, and return their answers, by the index of the worker.

        Args:
            request: One of `requests.py`.

        Raises:
            WorkerError: A server was lost meanwhile; the message names it. One that is silent ends the process.
        """
        with self._asking:
            for line in self._lines.values():
                line.send(ask=request)
            return {index: self._answer(index) for index in self._lines}

    def _answer(self, index: int) -> Any:
        while True:
            try:
                return self._answers[index].get(timeout=_NEWS)
            except queue.Empty:
                if self._loss.is_set():
                    raise WorkerError(self._lost) from None

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Let an error that follows on the loss of a server name the server.

        TensorFlow and Keras raise what they raise, some of it without a word of any machine.

        Raises:
            WorkerError: A server was killed or failed, and the script with it.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, WorkerError) or not self._loss.wait(_NEWS):
                raise
            raise WorkerError(self._lost) from error

    def _watch(self, index: int) -> None:
        line = self._lines[index]
        while (message := line.read(_INTERVAL)) is not None:
            if "notice" in message:
                os.kill(os.getpid(), signal.SIGTERM)
            elif "answer" in message:
                self._answers[index].put(message["answer"])
            elif is_silent(self._cluster.workers[index], self._heartbeat) and line.read(0.0) is not None:
                end_process(lost_sentence(self._cluster, index, SILENT))
        self._lost = self._lost or lost_sentence(self._cluster, index, HUNG_UP)
        self._loss.set()
        time.sleep(_GRACE)
        end_process(self._lost)


def join_servers(cluster: Cluster, devices: int | None, timeout: float, heartbeat: float, token: str) -> Program:
    """Wait for all machines, and make their devices this process's.

    Nothing is connected before every server has answered: TensorFlow crashes where hosts cannot be reached.

    Args:
        cluster: The machines; this process is worker 0.
        devices: How many virtual CPU devices this process gets; None for TensorFlow's default.
        timeout: Seconds to wait for the other machines.
        heartbeat: Seconds after which a server that does not respond is lost.
        token: What all workers know and nobody else; empty for none.

    Raises:
        ClusterError: The program's own address cannot be listened on.
        WorkerError: A machine does not come, or its versions differ; the message names it.
    """
    wait_for_peers(cluster, handshake(one_program=True), timeout, token=token)
    if devices is not None:
        virtual_devices(devices)
    send_while_computing()
    lines = accept_servers(cluster, token, timeout, to_stderr)
    for index in lines:
        if is_silent(cluster.workers[index], heartbeat):
            raise WorkerError(lost_sentence(cluster, index, SILENT))
    program = Program(cluster, lines, heartbeat)
    tf.config.experimental_connect_to_cluster(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}), job_name="worker", task_index=cluster.index
    )
    program.connected()
    _joined(cluster).append(program)
    return program


def send_while_computing() -> None:
    """Let what an action has computed travel while the next one computes, also on a machine of one core.

    TensorFlow starts operations from as many threads as there are cores. A single one runs the lane's next action
    first and sends the tensors of the last one afterwards, so that the other machine waits for an action more. On two
    machines of one core each a step of two stages and four microbatches took 280 ms with `"zb_h1"`, and takes 170 so.
    A number that the script or `TF_NUM_INTEROP_THREADS` sets stays.
    """
    unset = not tf.config.threading.get_inter_op_parallelism_threads() and "TF_NUM_INTEROP_THREADS" not in os.environ
    if unset and len(os.sched_getaffinity(0)) < _THREADS and not tensorflow_has_started():
        tf.config.threading.set_inter_op_parallelism_threads(_THREADS)


def this_program() -> Program | None:
    """Return the program of which this process runs the script; None on one machine, and in a worker of a cluster."""
    cluster = read_one_program()
    made = [] if cluster is None or read_cluster() is not None else _joined(cluster)
    return made[0] if made else None


@functools.cache
def _joined(cluster: Cluster) -> list[Program]:
    """Return the list that holds the program: `join_servers` appends it, and later calls find it."""
    return []
