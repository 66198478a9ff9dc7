"""The cluster's strategy, made once for each process, before anything else uses TensorFlow."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import tensorflow as tf

import kparallel
from kparallel.cluster import Cluster, read_cluster, read_one_program
from kparallel.comm.connections import PeerConnections
from kparallel.comm.departures import Departures
from kparallel.compat.startup import (
    abort_collectives,
    expect_cluster,
    take_back_legacy_keras,
    tensorflow_has_started,
)
from kparallel.devices import virtual_devices
from kparallel.errors import ClusterError
from kparallel.rendezvous import to_stderr, wait_for_peers

__all__: list[str] = []

_CHOICE = "KPARALLEL_COLLECTIVES"
_CHOICES = ("auto", "tensorflow")


def init(timeout: float = 300.0, heartbeat: float = 60.0) -> None:
    """Join the cluster that `TF_CONFIG` names; without one, do nothing.

    Call it first thing in the program, before a model, a dataset or any tensor is made: TensorFlow sets up its
    collectives when it starts. `kparallel run` calls it before the script. A second call does nothing. In a worker of
    Ray Train it removes `TF_USE_LEGACY_KERAS`, which Ray sets, so that `tf.keras` is Keras 3.

    Args:
        timeout: Seconds to wait for the other workers.
        heartbeat: Seconds after which a worker that has frozen counts as lost; all others then raise.

    Raises:
        ClusterError: `TF_CONFIG` or `KPARALLEL_COLLECTIVES` is malformed, this worker's port is taken, TensorFlow has
            started already, or `kparallel run --one-program` runs the script.
        WorkerError: A worker does not come, or the workers' versions differ; the message names them.

    Example:
        >>> init()  # No TF_CONFIG here: nothing to join.
    """
    if read_one_program() is not None:
        raise ClusterError(
            "Expected no kparallel.init() in one program over several machines, received a call: worker 0 runs the "
            "script alone, and has joined the other machines already. Remove the line, or start the script without "
            "--one-program."
        )
    take_back_legacy_keras()
    cluster = read_cluster()
    devices = os.environ.get("KPARALLEL_DEVICES_PER_WORKER")
    if cluster is None:
        if devices and not tensorflow_has_started():
            virtual_devices(int(devices))
        return
    made = _joined(cluster)
    if made:
        return
    if tensorflow_has_started():
        raise ClusterError(
            "Expected kparallel.init() first thing in the program: TensorFlow has started already, and takes no "
            "cluster any more. Move the lines `import kparallel` and `kparallel.init()` above the first model, dataset "
            "or tensor, or start the script with `kparallel run`, which does it."
        )
    agreed = {"number of devices per worker": devices or "default", _CHOICE: _choice(), **handshake(one_program=False)}
    # The workers meet before TensorFlow starts: from then on it could not be interrupted while it waits for one.
    wait_for_peers(cluster, agreed, timeout, token=os.environ.get("KPARALLEL_TOKEN", ""))
    if devices:
        virtual_devices(int(devices))
    expect_cluster(len(cluster.workers), timeout, heartbeat)
    # Here TensorFlow starts, and takes the ports that the rendezvous has left.
    with _exiting_after(cluster, timeout):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(_resolver(cluster))
    own = len(cluster.workers) > 1 and _choice() == "auto"
    news = os.environ.get("KPARALLEL_NEWS")  # Of the launcher, if there is one.
    departures = Departures(int(news), abort_collectives) if news else None
    made.append(_Joined(strategy, PeerConnections(cluster, heartbeat) if own else None, departures))


def _resolver(cluster: Cluster) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Return a cluster in TensorFlow's form."""
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )


def cluster_strategy() -> tf.distribute.Strategy | None:
    """Return the strategy of the cluster that `TF_CONFIG` names, or None without one.

    Raises:
        ClusterError: There is a cluster, but `kparallel.init()` has not been called.
    """
    cluster = read_cluster()
    if cluster is None:
        return None
    if read_one_program() is not None:
        raise ClusterError(
            f"Expected no TF_CONFIG in one program over several machines, received one with {len(cluster.workers)} "
            "workers. Let the script leave TF_CONFIG alone, or start it without --one-program."
        )
    made = _joined(cluster)
    if not made:
        raise ClusterError(
            f"TF_CONFIG names a cluster of {len(cluster.workers)} workers, which this process has not joined. Add the "
            "line `kparallel.init()` below the imports, before the first model, dataset or tensor, or start the script "
            "with `kparallel run`, which does it."
        )
    return made[0].strategy


def peer_connections() -> PeerConnections | None:
    """Return the connections to the other workers, or None where TensorFlow's collectives are to carry everything."""
    cluster = read_cluster()
    made = [] if cluster is None else _joined(cluster)
    return made[0].connections if made else None


def cluster_departures() -> Departures | None:
    """Return what ends the wait for a worker whose script has ended, or None without a launcher."""
    cluster = read_cluster()
    made = [] if cluster is None else _joined(cluster)
    return made[0].departures if made else None


@contextlib.contextmanager
def _exiting_after(cluster: Cluster, timeout: float) -> Iterator[None]:
    """End this process if TensorFlow's start takes longer than the timeout.

    All workers were there a moment ago. If one is lost now, TensorFlow waits for it without a message, in a call that
    nothing can interrupt.
    """

    def give_up() -> None:
        to_stderr(
            f"worker {cluster.index} waited {timeout:g} s for TensorFlow to start on {', '.join(cluster.workers)}. A "
            "worker was lost meanwhile: look at the end of each one's output. This worker ends now."
        )
        os._exit(1)

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(frozen=True)
class _Joined:
    strategy: tf.distribute.Strategy
    connections: PeerConnections | None
    departures: Departures | None


@functools.cache
def _joined(cluster: Cluster) -> list[_Joined]:
    """Return the list that holds the cluster's strategy and connections: TensorFlow allows a process one strategy."""
    # A list, because `cache` keeps what is returned: `init` appends the result, and later calls find it.
    return []


def handshake(one_program: bool) -> dict[str, str]:
    """Return what must be equal on all workers, however they are started."""
    versions = {"kparallel version": kparallel.__version__}
    versions |= {f"{name} version": version(name) for name in ("tensorflow", "keras")}
    return {**versions, "use of --one-program": "yes" if one_program else "no"}


def _choice() -> str:
    """Return what carries gradients between CPUs, as the environment says it.

    Raises:
        ClusterError: It says something else.
    """
    choice = os.environ.get(_CHOICE, "auto")
    if choice not in _CHOICES:
        raise ClusterError(f"Expected {_CHOICE} to be one of {', '.join(_CHOICES)}, received {choice!r}.")
    return choice
